"""Check the evaluation: metrics, greedy answers, and the shortcut for answers that begin like the reference."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cells import Bench
from tokenizers import normalizers

from adapterzoo.data_row import DataRow
from adapterzoo.tokens.batches import batches_by_length
from adapterzoo.tokens.encode import Encoder


def test_a_trained_model_answers_and_stops(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """After training on few rows until it knows them, its answers match exactly, so it has learned the end token."""
    from adapterzoo.evaluation.evaluate import evaluate

    path = write_recipe("{name: lora, r: 32}", steps="150", max_new_tokens="20", batch_size="8")
    bench = Bench(path, "train.learning_rate=1e-2", "data.split={train: 0.5, validation: 0.2, test: 0.3}")
    encoded = bench.prepared.encoded
    training_rows = type(encoded)(**{**vars(encoded), "test": encoded.train})
    loaded = bench.load("none")
    with bench.wrapped("lora", loaded) as model:
        before, *_ = evaluate(model, training_rows, bench.recipe.evaluate)
        bench.train("lora", model, tmp_path)
        after, predictions, *_ = evaluate(model, training_rows, bench.recipe.evaluate)
    assert before["exact_match"] == 0.0
    assert after["exact_match"] > 0.9, [(p.reference, p.prediction) for p in predictions]
    assert after["test_loss"] < before["test_loss"] / 5
    assert after["perplexity"] == pytest.approx(math.exp(after["test_loss"]))


def test_answers_do_not_depend_on_the_batch(write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    from adapterzoo.evaluation import continuing
    from adapterzoo.evaluation.decoding import decoded
    from adapterzoo.evaluation.generation import generate, greedy
    from adapterzoo.tokens.shared_prefix import SharedPrefix

    bench = Bench(write_recipe("lora"))
    model = bench.load("none").get_model()
    encoded = bench.prepared.encoded
    prompts = [example.prompt for example in encoded.test]
    expected = generate(model, encoded, prompts, 1, 6)
    assert generate(model, encoded, prompts, 8, 6) == expected
    for most in (1, 60, math.inf):  # on a GPU there is no limit
        monkeypatch.setattr(continuing, "max_positions", lambda model, most=most: most)
        answers = greedy(model, encoded, prompts, 8, [6] * len(prompts), SharedPrefix.of(model))
        assert [decoded(ids, encoded) for ids in answers] == expected


def test_right_answers_that_no_model_can_give_are_counted(write_recipe: Callable[..., Path]) -> None:
    from adapterzoo.evaluation.references import notes_on_references

    bench = Bench(write_recipe("lora", max_new_tokens="5"))
    encoded, settings = bench.prepared.encoded, bench.recipe.evaluate
    long = sum(len(example.completion) > 6 for example in encoded.test)
    assert 0 < long < len(encoded.test)
    (note,) = notes_on_references(encoded, settings)
    assert note.startswith(f"data: {long} of {len(encoded.test)} test answers have more tokens than evaluate.max_new")
    at_most = settings.model_copy(update={"max_new_tokens": "auto"})
    assert [*notes_on_references(encoded, at_most)] == []
    encoded.tokenizer.backend_tokenizer.normalizer = normalizers.Replace("e", "3")
    row = encoded.test[0].row
    example = Encoder(encoded.tokenizer, bench.recipe.data).example(row)
    (note,) = notes_on_references(replace(encoded, test=[example]), at_most)
    assert f"1 of 1 test answers are another text after the tokenizer, as {row.completion!r} is" in note


def test_spaces_before_signs_stay_in_an_answer(write_recipe: Callable[..., Path]) -> None:
    from adapterzoo.evaluation.decoding import decoded

    bench = Bench(write_recipe("lora"))
    encoded = bench.prepared.encoded
    encoded.tokenizer.clean_up_tokenization_spaces = True
    encoded.tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output = True
    example = Encoder(encoded.tokenizer, bench.recipe.data).example(DataRow.pair("q", "who ?"))
    assert decoded(example.completion, encoded) == "who ?"


def test_a_model_with_weights_that_are_not_finite_fails(write_recipe: Callable[..., Path]) -> None:
    from adapterzoo.errors import NotFiniteError
    from adapterzoo.evaluation.evaluate import evaluate

    bench = Bench(write_recipe("lora"))
    with bench.wrapped("lora", bench.load("none")) as model:
        next(p for p in model.parameters() if p.requires_grad).data.fill_(float("nan"))
        with pytest.raises(NotFiniteError, match="test loss is nan"):
            evaluate(model, bench.prepared.encoded, bench.recipe.evaluate)


def test_only_the_metrics_asked_for_are_measured(write_recipe: Callable[..., Path]) -> None:
    from adapterzoo.evaluation.evaluate import evaluate

    bench = Bench(write_recipe("lora"), "evaluate.metrics=[loss]")
    metrics, predictions, *_ = evaluate(bench.load("none").get_model(), bench.prepared.encoded, bench.recipe.evaluate)
    assert set(metrics) == {"test_loss"}
    assert predictions[0].prediction is None
    assert predictions[0].scores == {}


def test_answers_are_greedy_whatever_the_models_generation_configuration_is(write_recipe: Callable[..., Path]) -> None:
    """A model's generation configuration may sample, punish repetition, or forbid the likeliest token."""
    from adapterzoo.evaluation.generation import generate

    bench = Bench(write_recipe("lora"))
    loaded = bench.load("none")
    encoded = bench.prepared.encoded
    prompts = [example.prompt for example in encoded.test]
    expected = generate(loaded.get_model(), encoded, prompts, 8, 6)
    own = loaded.get_model().generation_config
    own.update(repetition_penalty=5.0, no_repeat_ngram_size=1, suppress_tokens=[3, 4, 5], min_new_tokens=6)
    own.update(do_sample=True, temperature=3.0, top_k=3)
    assert generate(loaded.get_model(), encoded, prompts, 8, 6) == expected
    assert loaded.get_model().generation_config is own, "the model keeps its configuration, which merge saves with it"
    with bench.wrapped("lora", loaded) as model:
        assert generate(model, encoded, prompts, 8, 6) == expected


@pytest.mark.parametrize("loss_on", ["completion", "all"])
@pytest.mark.parametrize("shared", [False, True])
def test_answers_are_the_same_with_and_without_the_shortcut(
    loss_on: str, shared: bool, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """The start of an answer that equals the reference is not generated, and the answers do not change."""
    from adapterzoo.evaluation.evaluate import evaluate
    from adapterzoo.evaluation.generation import generate
    from adapterzoo.tokens.shared_prefix import SharedPrefix

    sets = ("train.steps=60", "train.learning_rate=5e-3", f"data.loss_on={loss_on}", "evaluate.batch_size=2")
    bench = Bench(write_recipe("lora"), *sets)
    encoded = bench.prepared.encoded
    with bench.wrapped("lora", bench.load("none")) as model:
        bench.train("lora", model, tmp_path)
        prefix = SharedPrefix.of(model) if shared else None
        for limit in ("auto", 3):
            settings = bench.recipe.evaluate.model_copy(update={"max_new_tokens": limit})
            found = evaluate(model, encoded, settings, split="train", prefix=prefix)
            longest = max(len(example.completion) for example in encoded.train) if limit == "auto" else limit
            expected = generate(model, encoded, [example.prompt for example in encoded.train], 8, longest)
            assert [prediction.prediction for prediction in found.predictions] == expected
    right = [prediction.scores["exact_match"] for prediction in found.predictions]
    assert limit == 3 or 0 < sum(right) < len(right)


def test_the_shortcut_is_not_used_for_a_model_that_sees_the_next_token(write_recipe: Callable[..., Path]) -> None:
    """Such a model agrees with every reference but generates none of them."""
    from types import SimpleNamespace

    import torch

    from adapterzoo.evaluation.evaluate import evaluate
    from adapterzoo.tokens.shared_prefix import SharedPrefix

    bench = Bench(write_recipe("lora"), "evaluate.batch_size=4")
    loaded = bench.load("none")
    with loaded.borrow() as model:
        answer = model.forward

        def peeks(input_ids: Any, logits_to_keep: Any = 0, **arguments: Any) -> Any:
            output = answer(input_ids=input_ids, logits_to_keep=0, **arguments)
            logits = output.logits.clone()
            following = torch.nn.functional.one_hot(input_ids[:, 1:], logits.shape[-1])
            logits[:, :-1] += 100.0 * following
            part = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
            return SimpleNamespace(logits=logits[:, part], past_key_values=output.past_key_values)

        model.forward = peeks
        found = evaluate(model, bench.prepared.encoded, bench.recipe.evaluate, split="train", prefix=SharedPrefix(10.0))
    assert found.metrics["exact_match"] == 0.0


def test_rows_are_batched_by_length_within_every_limit() -> None:
    lengths = [5, 100, 60, 60, 5, 5, 5, 300]
    batches = batches_by_length(lengths, 3, max_positions=150)
    assert batches == [[7], [1], [2, 3], [0, 4, 5], [6]], "a row above the limit is a batch of its own"
    assert batches_by_length(lengths, 3) == [[7, 1, 2], [3, 0, 4], [5, 6]]
    assert batches_by_length([10, 10], 8, spans=[3000, 3000]) == [[0], [1]], "logits of a wide vocabulary are large"
