"""Preference: losses are TRL's, the reference is the untouched base for every method, and bad data is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from task_runs import WORDS, assert_refused, results, write_recipe

LOSSES = ("dpo", "ipo", "kto", "orpo", "simpo")


def pairs(count: int = 40) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Name {WORDS[n % 10]} {n}.", "chosen": f"a {WORDS[n % 10]}", "rejected": "no" * (n % 3 + 1)}
        for n in range(count)
    ]


def unpaired(count: int = 40) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Name {WORDS[n % 10]} {n}.", "completion": ("no", f"a {WORDS[n % 10]}")[n % 2], "label": n % 2 == 1}
        for n in range(count)
    ]


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[dict[str, Any]], methods: str = "lora", task: str = "preference", steps: int = 6) -> Path:
        return write_recipe(tmp_path, tiny_model, rows, task, methods, steps, 96)

    return write


def texts(tokenizer: Any, example: Any) -> list[tuple[str, str]]:
    """Return the prompt and the answer of each sequence of an example, as they are tokenized."""
    found = []
    for ids, learned in example.answers:
        start = learned.index(True)
        parts = (ids[:start], ids[start:])
        found.append(tuple(tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in parts))
    return found


def trl_trainer(loss: str, beta: float, model: Any, tokenizer: Any, encoded: Any, folder: Path) -> Any:
    """Return TRL's own trainer for a loss, on the texts of the training rows."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer

    kinds: dict[str, tuple[Any, Any, dict[str, Any]]] = {
        "dpo": (DPOTrainer, DPOConfig, {}),
        "ipo": (DPOTrainer, DPOConfig, {"loss_type": ["ipo"]}),
        "kto": (KTOTrainer, KTOConfig, {"desirable_weight": 1.5}),
        "orpo": (ORPOTrainer, ORPOConfig, {}),
        "simpo": (CPOTrainer, CPOConfig, {"loss_type": "simpo", "cpo_alpha": 0.0, "simpo_gamma": 0.7}),
    }
    trainer, config, own = kinds[loss]
    rows = []
    for example in encoded.train:
        found = texts(tokenizer, example)
        if len(found) == 2:
            rows.append({"prompt": found[0][0], "chosen": found[0][1], "rejected": found[1][1]})
        else:
            rows.append({"prompt": found[0][0], "completion": found[0][1], "label": example.wanted[0]})
    rows_in_batch = len(rows) * (2 if loss == "kto" and "chosen" in rows[0] else 1)
    settings = config(
        output_dir=str(folder), beta=beta, max_length=96, per_device_train_batch_size=rows_in_batch, bf16=False,
        use_cpu=True, report_to=[], gradient_checkpointing=False, **own,
    )  # fmt: skip
    return trainer(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=LoraConfig(task_type="CAUSAL_LM", r=4, lora_alpha=32, target_modules="all-linear"),
    )


@pytest.mark.parametrize(
    ("loss", "rows"), [*((loss, pairs(8)) for loss in LOSSES), ("kto", unpaired(8))], ids=[*LOSSES, "kto-unpaired"]
)
def test_losses_and_gradients_are_those_of_trl(
    loss: str, rows: list[dict[str, Any]], recipe: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> None:
    from cells import Bench
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM

    own = {"simpo": ", simpo_gamma: 0.7", "kto": ", desirable_weight: 1.5"}.get(loss, "")
    bench = Bench(recipe(rows, task=f"{{name: preference, loss: {loss}, beta: 0.3{own}}}"))
    encoded = bench.prepared.encoded

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager", dtype=torch.float32)

    trainer = trl_trainer(loss, 0.3, load(), encoded.tokenizer, encoded, tmp_path / "trl")
    theirs = trainer.model
    theirs.train()
    # TRL's loader has a collator of its own; it is asked for one batch with all rows.
    batch = trainer.data_collator([trainer.train_dataset[index] for index in range(len(trainer.train_dataset))])
    for seed in range(20):
        torch.manual_seed(seed)
        for name, parameter in theirs.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter.data, std=0.1)
        wanted = trainer.compute_loss(theirs, batch)
        if loss != "kto" or trainer._metrics["train"]["kl"][-1] > 0:  # below 0, it would not be seen
            break
    else:
        pytest.fail("no adapter diverges from the base model")
    wanted.backward()

    model = get_peft_model(load(), theirs.peft_config["default"])
    model.load_state_dict({name: value for name, value in theirs.state_dict().items() if "lora_" in name}, strict=False)
    model.train()
    known = encoded.with_base(encoded.ask_base(load(), bench.recipe.evaluate))
    given = known.loss(model, known.arguments(known.collate(known.train), model))
    given.backward()
    assert given.item() == pytest.approx(wanted.item(), abs=1e-5)
    if "chosen" in rows[0] and loss != "kto":  # for kto, TRL logs no accuracy
        logged = (trainer._stored_metrics if hasattr(trainer, "_stored_metrics") else trainer._metrics)["train"]
        names = {"reward_accuracy": "rewards/accuracies", "reward_margin": "rewards/margins"}
        measured = replace(known, test=known.train).evaluate(model, bench.prepared.recipe.evaluate).metrics
        for ours, name in names.items():
            assert measured[ours] == pytest.approx(float(logged[name][-1]), abs=1e-4), ours
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert len(gradients) > 10
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-5), name


def test_preferences_are_learned(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    done = adapterzoo("run", recipe(pairs(), steps=30), "--out", tmp_path / "o", "--set", "train.learning_rate=3e-3")
    assert done.exit_code == 0, done.output
    rows = results(tmp_path / "o", adapterzoo)
    base, lora = rows["base"]["metrics"], rows["lora"]["metrics"]
    assert list(lora) == ["likelihood_accuracy", "reward_accuracy", "reward_margin", "test_loss"]
    assert lora["test_loss"] < 0.3
    assert lora["reward_accuracy"] == 1.0
    assert list(base) == ["likelihood_accuracy", "test_loss"], "its rewards are the rises over itself"
    record = json.loads((tmp_path / "o" / "lora" / "seed-0" / "predictions.jsonl").read_text().splitlines()[0])
    assert record["reward_accuracy"] is True
    assert record["tokens"] == 1


def test_answers_without_a_partner_are_learned(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    done = adapterzoo("run", recipe(unpaired(), steps=40), "--out", tmp_path / "o", "--set", "train.learning_rate=3e-3")
    assert done.exit_code == 0, done.output
    rows = results(tmp_path / "o", adapterzoo)
    assert list(rows["lora"]["metrics"]) == ["reward_accuracy", "reward_margin", "test_loss"]
    assert rows["lora"]["metrics"]["reward_accuracy"] > 0.9
    assert rows["base"]["metrics"]["test_loss"] == pytest.approx(0.5), "no answer is likelier than with the base model"


# Of these methods, one trains the base model, one changes it at the start, and one quantizes it.
@pytest.mark.parametrize(("jobs", "labels", "bases"), [(0, ("full",), 1), (2, ("pissa", "qlora"), 2)])
def test_every_method_has_the_untouched_base_as_its_reference(
    jobs: int, labels: tuple[str, ...], bases: int, recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Trained with a rate of almost nothing, no method differs from its base, whatever it does to it at the start."""
    from adapterzoo.tasks.registry import tasks

    asked = tmp_path / "asked"
    kind = type(tasks()["preference"]).encode.__globals__["Judgements"]
    ask_base = kind.ask_base

    def counted(self: Any, *arguments: Any) -> Any:
        with asked.open("a") as file:
            file.write("x")
        return ask_base(self, *arguments)

    monkeypatch.setattr(kind, "ask_base", counted)
    methods = ", ".join(f"{{name: {label}, learning_rate: 1.0e-12}}" for label in labels)
    path = recipe(pairs(20), methods, steps=2)
    seeds = "[0, 1]" if jobs == 0 else "[0]"
    done = adapterzoo("run", path, "--out", tmp_path / "o", "--jobs", jobs, "--set", f"seeds={seeds}")
    assert done.exit_code == 0, done.output
    rows = results(tmp_path / "o", adapterzoo)
    for label in labels:
        assert rows[label]["metrics"]["test_loss"] == pytest.approx(0.6931, abs=1e-3), label
        assert rows[label]["metrics"]["reward_margin"] == pytest.approx(0.0, abs=1e-3), label
    assert len(asked.read_text()) == bases, "once for each quantization, for all methods and seeds"


def test_a_base_that_cannot_be_asked_fails_its_rows_with_the_reason(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.tasks.registry import tasks

    def broken(*_: Any) -> Any:
        raise ValueError("out of order")

    monkeypatch.setattr(type(tasks()["preference"]).encode.__globals__["Judgements"], "ask_base", broken)
    done = adapterzoo("run", recipe(pairs(20), steps=2), "--out", tmp_path / "o", "--jobs", 0)
    assert done.exit_code == 1
    wanted = "the untouched base model could not be asked about the examples: ValueError: out of order"
    assert wanted in " ".join(done.output.split())


def test_regulariser_of_a_method_is_in_the_loss(recipe: Callable[..., Path]) -> None:
    """AdaLoRA adds a term to the loss in the model's output, which a loss beside the model would leave out."""
    from cells import Bench

    methods = ", ".join(f"{{name: adalora, label: reg-{n}, orth_reg_weight: 0.{n}}}" for n in (0, 9))
    bench = Bench(recipe(pairs(20), methods, task="{name: preference, loss: simpo}"))
    encoded, loaded, losses = bench.prepared.encoded, bench.load("none"), []
    for n in (0, 9):
        with bench.wrapped(f"reg-{n}", loaded) as model:
            losses.append(encoded.loss(model, encoded.arguments(encoded.collate(encoded.train), model)).item())
    assert losses[0] < losses[1] - 0.01


@pytest.mark.parametrize("method", ["prompt-tuning", "prefix-tuning"])
def test_virtual_tokens_are_not_answers(method: str, recipe: Callable[..., Path]) -> None:
    from cells import Bench

    bench = Bench(recipe(pairs(20), method, task="{name: preference, loss: orpo}"))
    encoded = bench.prepared.encoded
    with bench.wrapped(method, bench.load("none")) as model:
        model.eval()
        losses = encoded.loss(model, encoded.arguments(encoded.collate(encoded.test), model))
        measured = encoded.evaluate(model, bench.prepared.recipe.evaluate).metrics
    assert losses.item() == pytest.approx(measured["test_loss"], rel=0.02)


def test_term_is_found_in_the_loss_of_a_model_with_its_own_code(tiny_model: Path) -> None:
    from transformers import AutoModelForCausalLM

    from adapterzoo.tokens.batches import pad_batch, row_tokens
    from adapterzoo.training.task_loss import task_loss

    class OwnCode(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = AutoModelForCausalLM.from_pretrained(tiny_model)

        def forward(self, labels: torch.Tensor, **batch: Any) -> Any:
            output = self.inner(**batch)
            output.loss = torch.nn.functional.cross_entropy(
                output.logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten()
            )
            output.loss += 1.5
            return output

    batch = pad_batch([row_tokens([5, 6], [7, 8, 9]), row_tokens([5], [7, 8])], 0)
    loss = task_loss(OwnCode(), batch, lambda logits: logits.sum() * 0 + 2.0)
    assert loss.item() == pytest.approx(3.5, abs=1e-5)


def test_an_answer_may_be_the_same_text_as_its_prompt(recipe: Callable[..., Path]) -> None:
    """The past tense of cut is cut."""
    rows = [{"prompt": f"cut {n}", "chosen": f"cut {n}", "rejected": f"cutted {n}"} for n in range(40)]
    from adapterzoo.prepare.prepare import prepare
    from adapterzoo.recipe.reading import load_recipe

    encoded = prepare(load_recipe(recipe(rows))).encoded
    assert {example.row.completion for example in encoded.train} <= {row["chosen"] for row in rows}


def test_messages_are_read_as_trl_writes_them(recipe: Callable[..., Path]) -> None:
    """A prompt and answers may be texts, messages, or messages that repeat the prompt."""
    from cells import Bench

    def message(role: str, content: str) -> dict[str, str]:
        return {"role": role, "content": content}

    def example(row: dict[str, Any]) -> Any:
        encoded = Bench(recipe([row, *more])).prepared.encoded
        return next(e for e in (*encoded.train, *encoded.validation, *encoded.test) if "first" in e.row.prompt)

    more: list[dict[str, Any]] = []
    asked, chosen, rejected = message("user", "first"), message("assistant", "yes"), message("assistant", "no")
    more = [{"prompt": f"q{n}", "chosen": "a", "rejected": "b"} for n in range(9)]
    plain = example({"prompt": "first", "chosen": "yes", "rejected": "no"})
    as_list = [{**row, "prompt": [message("user", row["prompt"])]} for row in more]
    more = [
        {"prompt": r["prompt"], "chosen": [message("assistant", "a")], "rejected": [message("assistant", "b")]}
        for r in as_list
    ]
    messages = example({"prompt": [asked], "chosen": [chosen], "rejected": [rejected]})
    more = [{name: [*row["prompt"], *row[name]] for name in ("chosen", "rejected")} for row in more]
    implicit = example({"chosen": [asked, chosen], "rejected": [asked, rejected]})
    repeated = [{"prompt": row["chosen"][0]["content"], **row} for row in more]
    more = repeated
    both = example({"prompt": "first", "chosen": [asked, chosen], "rejected": [asked, rejected]})
    assert plain.answers == messages.answers == implicit.answers == both.answers
    assert plain.row.turns == both.row.turns


def change(n: int, **cells: Any) -> Callable[[list[dict[str, Any]]], list[dict[str, Any]]]:
    def changed(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [{**row, **cells} if index == n else row for index, row in enumerate(rows)]

    return changed


@pytest.mark.parametrize(
    ("rows", "task", "wanted"),
    [
        (change(3, rejected="a cloud")(pairs()), "preference", "rows.jsonl:4: its chosen and its rejected answer are"),
        (change(3, label="maybe")(unpaired()), "preference", "rows.jsonl:4: 'label' is text here"),
        (
            [{**row, "label": "maybe"} for row in unpaired()],
            "preference",
            "its label 'maybe' is neither true nor false",
        ),
        ([{**row, "label": True} for row in unpaired()], "preference", "the label of all training rows is true"),
        (unpaired(), "{name: preference, loss: dpo}", "these rows have single answers. Set it to kto"),
        (pairs(), "{name: preference, simpo_gamma: 1}", "only simpo uses it, and the loss is dpo"),
        (pairs(), "{name: preference, loss: ppo}", "it can be auto, dpo, ipo, kto, orpo, simpo"),
        (pairs(), "{name: preference, beta: 0}", "beta"),
        ([{**row, "rejected": " "} for row in pairs()], "preference", "all 40 rows have an empty 'rejected'"),
        ([{"chosen": r["chosen"], "rejected": r["rejected"]} for r in pairs()], "preference", "it has no prompt"),
        (
            [{**row, "rejected": [{"role": "user", "content": "x"}]} for row in pairs()],
            "preference",
            "its 'rejected' ends with the user",
        ),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    rows: list[dict[str, Any]], task: str, wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    no_weights: None,
) -> None:  # fmt: skip
    assert_refused(adapterzoo, recipe(rows, task=task), wanted)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("evaluate.general_text", "shipped", "'general_text' needs"),
        ("evaluate.metrics", "[exact_match]", "has no 'exact_match'"),
        ("data.packing", "true", "does not use 'packing'"),
        ("data.max_length", "20", "leaves"),
    ],
)
def test_keys_that_do_not_suit_the_task_are_refused(
    key: str, value: str, wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    assert_refused(adapterzoo, recipe(pairs()), wanted, "--set", f"{key}={value}")


def test_an_empty_answer_is_reported_with_its_row(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    done = adapterzoo("check", recipe(change(3, rejected="")(pairs())))
    assert done.exit_code == 0, done.output
    assert "1 of 40 rows dropped: 'rejected' is empty (first:" in " ".join(done.output.split())
    assert "rows.jsonl:4)" in done.output
