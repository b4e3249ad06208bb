"""Reward: the loss is TRL's, a head learns which text is better, and bad data is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from task_runs import WORDS, assert_refused, write_recipe


def prompted(count: int = 40) -> list[dict[str, Any]]:
    return [
        {"prompt": f"Name {WORDS[n % 10]} {n}.", "chosen": f"good {WORDS[n % 10]}", "rejected": "bad" * (n % 3 + 1)}
        for n in range(count)
    ]


def ranked(count: int = 40) -> list[dict[str, Any]]:
    return [{"chosen": f"good {WORDS[n % 10]} {n}", "rejected": f"bad {n}"} for n in range(count)]


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    def write(rows: list[dict[str, Any]], methods: str = "lora", steps: int = 6, model: Path = tiny_model) -> Path:
        return write_recipe(tmp_path, model, rows, "reward", methods, steps, 96)

    return write


def test_rewards_are_learned(recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    done = adapterzoo("run", recipe(ranked(), steps=40), "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    shown = json.loads(adapterzoo("compare", tmp_path / "o", "--format", "json").stdout)["rows"]
    found = {row["label"]: row["metrics"] for row in shown}
    assert found.keys() == {"lora", "head-only"}
    assert list(found["lora"]) == ["reward_accuracy", "reward_margin", "test_loss"]
    assert found["lora"]["reward_accuracy"] > 0.9
    assert found["lora"]["reward_margin"] > 0.1
    record = json.loads((tmp_path / "o" / "lora" / "seed-0" / "predictions.jsonl").read_text().splitlines()[0])
    assert isinstance(record["reward_accuracy"], bool)
    assert record["loss"] == pytest.approx(
        -torch.nn.functional.logsigmoid(torch.tensor(record["reward_margin"])).item()
    )


@pytest.mark.parametrize("rows", [prompted(8), ranked(8)], ids=["prompted", "ranked"])
def test_losses_and_gradients_are_those_of_trl(
    rows: list[dict[str, Any]], recipe: Callable[..., Path], tmp_path: Path, tiny_model: Path
) -> None:
    from cells import Bench
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    bench = Bench(recipe(rows))
    encoded = bench.prepared.encoded

    def load(**config: Any) -> Any:
        torch.manual_seed(0)
        return AutoModelForSequenceClassification.from_pretrained(
            tiny_model, num_labels=1, attn_implementation="eager", dtype=torch.float32, **config
        )

    def text(read: Any) -> str:
        return encoded.tokenizer.decode(read.ids, clean_up_tokenization_spaces=False)

    texts = [{"chosen": text(e.chosen), "rejected": text(e.rejected)} for e in encoded.train]
    trainer = RewardTrainer(
        model=load(pad_token_id=encoded.pad_id),
        args=RewardConfig(
            output_dir=str(tmp_path / "trl"), max_length=96, bf16=False, use_cpu=True, report_to=[],
            gradient_checkpointing=False,
        ),
        train_dataset=Dataset.from_list(texts),
        processing_class=encoded.tokenizer,
        peft_config=LoraConfig(task_type="SEQ_CLS", r=4, lora_alpha=32, target_modules="all-linear"),
    )  # fmt: skip
    theirs = trainer.model
    theirs.train()
    torch.manual_seed(0)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter.data, std=0.1)
    wanted = trainer.compute_loss(theirs, trainer.data_collator([*trainer.train_dataset]))
    wanted.backward()

    model = get_peft_model(load(**encoded.form.config), theirs.peft_config["default"])
    model.load_state_dict(theirs.state_dict())
    model.train()
    given = encoded.loss(model, encoded.arguments(encoded.collate(encoded.train), model))
    given.backward()
    assert given.item() == pytest.approx(wanted.item(), abs=1e-5)
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert any("score" in name for name in gradients)
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert torch.allclose(parameter.grad, gradients[name], atol=1e-5), name


def test_regulariser_of_a_method_is_in_the_loss(recipe: Callable[..., Path]) -> None:
    from cells import Bench

    from adapterzoo.model import base
    from adapterzoo.running.cell import adapt
    from adapterzoo.running.watch import Watch

    methods = ", ".join(f"{{name: adalora, label: reg-{n}, orth_reg_weight: 0.{n}}}" for n in (0, 9))
    bench = Bench(recipe(prompted(20), methods))
    encoded, losses = bench.prepared.encoded, []
    loaded = base.load(bench.recipe.model, bench.prepared.location, "none", 96, encoded.form)
    for n in (0, 9):
        with loaded.borrow() as model:
            adapted = adapt(bench.prepared, bench.cells[f"reg-{n}"], model, Watch()).model
            losses.append(encoded.loss(adapted, encoded.collate(encoded.train)).item())
    assert losses[0] < losses[1] - 0.01


def test_a_model_without_an_end_token_reads_two_texts(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path, tiny_bert: Path
) -> None:
    from transformers import AutoTokenizer, BertConfig, BertModel

    # The checkpoint of a masked language model lacks a layer that BERT's classifier has.
    torch.manual_seed(0)
    BertModel(BertConfig.from_pretrained(tiny_bert)).save_pretrained(tmp_path / "bert")
    AutoTokenizer.from_pretrained(tiny_bert).save_pretrained(tmp_path / "bert")
    path = recipe(prompted(20), model=tmp_path / "bert", steps=2)
    done = adapterzoo("run", path, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert adapterzoo("preview", path).output.count("[SEP]") >= 4, "one after each prompt and each answer"


@pytest.mark.parametrize(
    ("rows", "wanted"),
    [
        ([{**row, "rejected": row["chosen"]} for row in prompted()], "its chosen and its rejected answer are the same"),
        ([{**row, "chosen": ""} for row in ranked()], "all 40 rows have an empty 'chosen'"),
        (
            [{name: [{"role": "user", "content": f"{n}{name}"}, {"role": "assistant", "content": name}]
              for name in ("chosen", "rejected")} for n in range(9)],
            "have different messages before them. Both must answer the same prompt",
        ),
    ],
)  # fmt: skip
def test_rows_that_do_not_fit_are_refused(
    rows: list[dict[str, Any]], wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    no_weights: None,
) -> None:  # fmt: skip
    assert_refused(adapterzoo, recipe(rows), wanted)


@pytest.mark.parametrize(
    ("key", "value", "wanted"),
    [
        ("evaluate.general_text", "shipped", "'general_text' needs"),
        ("evaluate.metrics", "[likelihood_accuracy]", "has no 'likelihood_accuracy'"),
        ("data.loss_on", "all", "does not use 'loss_on'"),
    ],
)
def test_keys_that_do_not_suit_the_task_are_refused(
    key: str, value: str, wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    assert_refused(adapterzoo, recipe(prompted()), wanted, "--set", f"{key}={value}")
