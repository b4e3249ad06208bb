"""Encoder-decoder models: trained as a plain script does it, measured one by one, and refused where they do not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file
from task_runs import WORDS, assert_refused, results, write_recipe

SEVEN = (
    "lora, qlora, {name: ia3, target_modules: [k, v, wo], feedforward_modules: [wo]}, loha, lokr, adalora, "
    "{name: oft, oft_block_size: 16}"
)


def pairs(answer: Callable[[int], str] = lambda n: ("yes", "no")[n % 2]) -> list[dict[str, str]]:
    """Return sixty questions of different lengths."""
    texts = [f"{('good', 'bad')[n % 2]} {WORDS[n // 2 % 10]}{'s' * (n % 3)} {n}" for n in range(60)]
    return [{"question": text, "answer": answer(n)} for n, text in enumerate(texts)]


def save_tokenizer(folder: Path, form: str) -> int:
    """Save a tokenizer of bytes, which writes a text as ``form`` says; return the size of its vocabulary."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    letters.remove("~")
    specials = {"<pad>": 0, "</s>": 1, "<s>": 2, "<unk>": 3}
    vocabulary = {token: index for index, token in enumerate([*specials, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(single=form, special_tokens=list(specials.items())[1:3])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
    fast.save_pretrained(folder)
    return len(fast)


@pytest.fixture(scope="module")
def t5(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    folder = tmp_path_factory.mktemp("t5")
    config = T5Config(
        vocab_size=save_tokenizer(folder, "$A </s>"), d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", dropout_rate=0.0, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0,
    )  # fmt: skip
    torch.manual_seed(0)
    model = T5ForConditionalGeneration(config)
    torch.nn.init.normal_(model.shared.weight, std=0.5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def bart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model whose own settings for generation would change its answers."""
    from transformers import BartConfig, BartForConditionalGeneration, GenerationConfig

    folder = tmp_path_factory.mktemp("bart")
    config = BartConfig(
        vocab_size=save_tokenizer(folder, "<s> $A </s>"), d_model=64, encoder_layers=2, decoder_layers=2,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128,
        max_position_embeddings=64, dropout=0.0, init_std=0.3, pad_token_id=0, bos_token_id=2, eos_token_id=1,
        decoder_start_token_id=1, forced_eos_token_id=1,
    )  # fmt: skip
    torch.manual_seed(0)
    model = BartForConditionalGeneration(config)
    model.final_logits_bias.normal_()
    model.generation_config = GenerationConfig(
        pad_token_id=0, bos_token_id=2, eos_token_id=1, decoder_start_token_id=1, forced_bos_token_id=9,
        forced_eos_token_id=1, num_beams=4, no_repeat_ngram_size=1, min_length=5, length_penalty=2.0,
    )  # fmt: skip
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def m2m100(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a model that shifts its labels only inside its forward, and whose positions depend on the padding."""
    from transformers import M2M100Config, M2M100ForConditionalGeneration

    folder = tmp_path_factory.mktemp("m2m100")
    config = M2M100Config(
        vocab_size=save_tokenizer(folder, "$A </s>"), d_model=64, encoder_layers=1, decoder_layers=1,
        encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=128, decoder_ffn_dim=128,
        max_position_embeddings=64, init_std=0.3, pad_token_id=0, bos_token_id=2, eos_token_id=1,
        decoder_start_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(0)
    M2M100ForConditionalGeneration(config).save_pretrained(folder)
    return folder


@pytest.fixture
def recipe(tmp_path: Path) -> Callable[..., Path]:
    def write(
        model: Path, rows: list[dict[str, str]], methods: str = "lora", task: str = "seq2seq", steps: int = 4
    ) -> Path:
        train, evaluate = f", eval_steps: {steps}", ", metrics: [exact_match, loss, token_accuracy]"
        return write_recipe(tmp_path, model, rows, task, methods, steps, 32, train, evaluate)

    return write


def test_seven_methods_and_the_untouched_base_are_rows(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], t5: Path, tmp_path: Path
) -> None:
    done = adapterzoo("run", recipe(t5, pairs(), SEVEN), "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    rows = results(tmp_path / "o", adapterzoo)
    assert rows.keys() == {"base", "lora", "qlora", "ia3", "loha", "lokr", "adalora", "oft"}
    for label, row in rows.items():
        assert {"exact_match", "test_loss", "token_accuracy"} <= row["metrics"].keys(), label
        assert row["metrics"]["test_loss"] < 20
        records = [json.loads(line) for line in (tmp_path / "o" / label / "seed-0" / "predictions.jsonl").open()]
        assert {record["tokens"] for record in records} == {3, 4}, "the letters of yes or no, and the end token"
        assert all(isinstance(record["prediction"], str) for record in records)
    assert all((tmp_path / "o" / label / "seed-0" / "adapter").is_dir() for label in rows if label != "base")


def test_answers_are_learned(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], t5: Path, tmp_path: Path
) -> None:
    path = recipe(t5, pairs(), "{name: lora, learning_rate: 1.0e-2}", steps=60)
    done = adapterzoo("run", path, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    rows = results(tmp_path / "o", adapterzoo)
    assert rows["base"]["metrics"]["exact_match"] == 0.0
    assert rows["lora"]["metrics"]["exact_match"] == 1.0
    assert rows["lora"]["metrics"]["token_accuracy"] == 1.0


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_losses_and_adapter_are_those_of_a_plain_script(
    family: str, recipe: Callable[..., Path], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Trained by transformers' own Trainer and PEFT, the same rows give the same losses and the same adapter."""
    from cells import Bench
    from peft import LoraConfig, get_peft_model
    from transformers import (
        AutoModelForSeq2SeqLM,
        AutoTokenizer,
        DataCollatorForSeq2Seq,
        Seq2SeqTrainer,
        Seq2SeqTrainingArguments,
        set_seed,
    )

    from adapterzoo.model import base
    from adapterzoo.running.cell import adapt
    from adapterzoo.running.watch import Watch
    from adapterzoo.training.arguments import arguments

    folder = request.getfixturevalue(family)
    bench = Bench(recipe(folder, pairs(lambda n: WORDS[n % 7] * (1 + n % 2)), steps=6))
    encoded, cell = bench.prepared.encoded, bench.cells["lora"]
    loaded = base.load(bench.recipe.model, str(folder), "none", 32, encoded.form)
    with loaded.borrow() as model:
        adapted = adapt(bench.prepared, cell, model, Watch())
        trained = bench.train("lora", adapted.model, tmp_path / "ours")
        adapted.method.save(adapted.model, tmp_path / "adapter")
        ours = load_file(tmp_path / "adapter" / "adapter_model.safetensors")

    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [
        {
            "input_ids": tokenizer(example.row.prompt)["input_ids"],
            "labels": tokenizer(text_target=example.row.completion)["input_ids"],
        }
        for example in encoded.train
    ]
    plain = AutoModelForSeq2SeqLM.from_pretrained(folder)
    set_seed(0)
    peft = get_peft_model(plain, LoraConfig(task_type="SEQ_2_SEQ_LM", r=8, lora_alpha=32, target_modules="all-linear"))
    settings = arguments(bench.recipe.train, 6, cell.learning_rate, 0, tmp_path / "plain", fp16=False).to_dict()
    kept = {name: value for name, value in settings.items() if name not in ("eval_strategy", "eval_steps")}
    trainer = Seq2SeqTrainer(
        peft,
        Seq2SeqTrainingArguments(**kept),
        train_dataset=rows,
        data_collator=DataCollatorForSeq2Seq(tokenizer, peft),
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in trained.history if "loss" in entry] == pytest.approx(losses, rel=1e-5)
    peft.save_pretrained(tmp_path / "theirs")
    theirs = load_file(tmp_path / "theirs" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in ours)


@pytest.mark.parametrize("family", ["t5", "bart", "m2m100"])
def test_answers_and_likelihoods_are_those_of_one_question_at_a_time(
    family: str, recipe: Callable[..., Path], request: pytest.FixtureRequest
) -> None:
    from cells import Bench
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, GenerationConfig

    from adapterzoo.model import base

    folder = request.getfixturevalue(family)
    bench = Bench(recipe(folder, pairs(lambda n: WORDS[n % 7] * (1 + n % 2))))
    encoded = bench.prepared.encoded
    with base.load(bench.recipe.model, str(folder), "none", 32, encoded.form).borrow() as model:
        measured = encoded.evaluate(model, bench.recipe.evaluate)
    plain, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    plain.generation_config = GenerationConfig()
    longest = max(len(example.answer) for example in encoded.test)
    for example, prediction in zip(encoded.test, measured.predictions, strict=True):
        question = tokenizer(example.row.prompt, return_tensors="pt")
        labels = tokenizer(text_target=example.row.completion, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            ids = plain.generate(
                **question, max_new_tokens=longest, do_sample=False, eos_token_id=1, pad_token_id=0,
                decoder_start_token_id=plain.config.decoder_start_token_id,
            )[0]  # fmt: skip
            loss = plain(**question, labels=labels).loss.item()
        assert prediction.prediction == tokenizer.decode(ids[1:], skip_special_tokens=True).strip()
        assert prediction.likelihood is not None
        assert prediction.likelihood.tokens == labels.numel()
        assert prediction.likelihood.loss / labels.numel() == pytest.approx(loss, rel=1e-5)
    assert len({prediction.prediction for prediction in measured.predictions}) > 1, "the answers depend on the question"


def test_long_and_unreadable_rows_are_reported(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], t5: Path
) -> None:
    rows = pairs(lambda n: "yes" * 20 if n == 5 else ("~", "<s>", "no")[min(n, 2)])
    rows[7]["question"] += " and more" * 8
    path = recipe(t5, rows)
    # All rows are in train but for some.
    done = adapterzoo("check", path, "--set", "data.split={train: 0.9, validation: 0.05, test: 0.05, seed: 3}")
    said = " ".join(done.output.split())
    assert done.exit_code == 0, said
    assert "1 of 54 questions of train are cut to fit max_length = 32 (first:" in said
    assert "1 of 54 answers of train are cut short by max_length = 32, and have no end token" in said
    assert "1 of 54 answers of train have characters that the tokenizer does not know" in said
    assert "1 of 54 rows of train contain the text of a special token" in said


def test_a_cut_question_keeps_its_end_token_and_a_cut_answer_has_none(recipe: Callable[..., Path], t5: Path) -> None:
    from cells import Bench

    encoded = Bench(recipe(t5, pairs(lambda n: "yes" * 20)), "data.max_length=8").prepared.encoded
    for example in (*encoded.train, *encoded.test):
        assert len(example.question) == len(example.answer) == 8
        assert example.question[-1] == 1
        assert 1 not in example.answer
    assert encoded.longest_row == 8


def test_a_question_and_its_answer_may_each_be_as_long_as_the_model_can_read(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], bart: Path, no_weights: None
) -> None:
    rows = pairs(lambda n: "yes" * 13)
    for row in rows:
        row["question"] += " and so on and so forth on"
    path = recipe(bart, rows)
    assert adapterzoo("check", path, "--set", "data.max_length=64").exit_code == 0
    rows[0]["question"] += " and more" * 8
    done = adapterzoo("check", recipe(bart, rows), "--set", "data.max_length=512")
    assert done.exit_code == 2
    assert "tokens, and the model can read 64. Set it to 64 or less." in " ".join(done.output.split())


def test_longer_answers_than_the_decoder_has_positions_are_refused_before_the_training(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], bart: Path, no_weights: None
) -> None:
    path = recipe(bart, pairs(lambda n: "yes"))
    assert adapterzoo("check", path, "--set", "evaluate.max_new_tokens=64").exit_code == 0
    done = adapterzoo("check", path, "--set", "evaluate.max_new_tokens=65")
    assert done.exit_code == 2
    wanted = "evaluate.max_new_tokens: an answer may have 65 tokens, and the model can read 64. Lower it by 1."
    assert wanted in " ".join(done.output.split())


def test_a_template_writes_the_question(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], t5: Path
) -> None:
    path = recipe(t5, pairs())
    shown = adapterzoo("preview", path, "--set", "data.template='is it good: {question}'")
    assert shown.exit_code == 0, shown.output
    assert "is it good: bad" in shown.output
    assert "⟦no</s>⟧" in shown.output
    whole = adapterzoo("preview", path, "--set", "data.template='{question}? {answer}!'")
    assert "⟦no!</s>⟧" in whole.output, whole.output
    done = adapterzoo("check", path, "--set", "data.template='{answer} is right for {question}'")
    assert done.exit_code == 2
    assert "60 rows have no question." in " ".join(done.output.split()), done.output


@pytest.mark.parametrize(
    ("family", "task", "wanted"),
    [
        ("tiny_model", "seq2seq", "the task seq2seq needs an encoder-decoder model, and this is of the type llama."),
        ("t5", "supervised", "the task supervised needs a causal language model, and this is of the type t5."),
        ("bart", "supervised", "the task supervised needs a causal language model, and this is of the type bart."),
    ],
)
def test_models_of_another_kind_are_refused(
    family: str, task: str, wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    request: pytest.FixtureRequest, no_weights: None,
) -> None:  # fmt: skip
    assert_refused(adapterzoo, recipe(request.getfixturevalue(family), pairs(), task=task), wanted)


@pytest.mark.parametrize("key", ["decoder_start_token_id", "pad_token_id"])
def test_a_model_whose_decoder_cannot_begin_is_refused(
    key: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result], t5: Path, tmp_path: Path, no_weights: None
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for path in t5.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, key: None}))
    done = adapterzoo("check", recipe(folder, pairs()))
    assert done.exit_code == 2
    said = " ".join(done.output.split())
    assert f"its configuration has no {key}, so its decoder cannot begin. Add it to its config.json" in said


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("data.system", "Be kind.", "does not use 'system'"),
        ("data.packing", "true", "does not use 'packing'"),
        ("evaluate.shots", "2", "and not seq2seq"),
        ("data.format", "text", "'data.format' is 'text'"),
        ("evaluate.metrics", "[accuracy]", "labels are only in the test rows"),
    ],
)
def test_keys_and_labels_that_do_not_suit_the_task_are_refused(
    key: str, value: str, wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result], t5: Path,
    no_weights: None,
) -> None:  # fmt: skip
    rows = pairs(lambda n: f"answer {n}")
    assert_refused(adapterzoo, recipe(t5, rows), wanted, "--set", f"{key}={value}")
