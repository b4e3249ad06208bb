"""Recipes of any task on a tiny model, their results, and the same training by a plain script."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench
from click.testing import Result

WORDS = ("table", "river", "stone", "cloud", "paper", "train", "glass", "horse", "music", "bread")
RECIPE = """\
name: tiny
task: {task}
model:
  name: {model}
  dtype: float32
data:
  source: rows.jsonl
  split: {{train: 0.6, validation: 0.2, test: 0.2}}
  max_length: {max_length}
train: {{steps: {steps}, batch_size: 4{train}}}
evaluate: {{batch_size: 8{evaluate}}}
methods: [{methods}]
jobs: 2  # known numbers need no probe
threads: 1
"""


def write_recipe(
    folder: Path,
    model: Path,
    rows: list[dict[str, Any]],
    task: str,
    methods: str = "lora",
    steps: int = 6,
    max_length: int = 64,
    train: str = "",
    evaluate: str = "",
) -> Path:
    """Write rows and a recipe of a task; ``train`` and ``evaluate`` are more keys, like ``, learning_rate: 1e-2``."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    path = folder / "recipe.yaml"
    text = RECIPE.format(
        task=task, model=model, methods=methods, steps=steps, max_length=max_length, train=train, evaluate=evaluate
    )
    path.write_text(text, encoding="utf-8")
    return path


def results(folder: Path, adapterzoo: Callable[..., Result]) -> dict[str, dict[str, Any]]:
    """Return the rows of an output folder by their labels."""
    shown = json.loads(adapterzoo("compare", folder, "--format", "json").stdout)
    return {row["label"]: row for row in shown["rows"]}


def assert_refused(adapterzoo: Callable[..., Result], recipe: Path, wanted: str, *arguments: str) -> None:
    """Assert that ``check`` refuses a recipe with a message."""
    done = adapterzoo("check", recipe, *arguments)
    assert done.exit_code == 2, done.output
    assert wanted in " ".join(done.output.split()), done.output


def assert_trains_like_a_plain_script(bench: Bench, plain: Any, head: str, folder: Path) -> None:
    """Assert that transformers' own Trainer and PEFT give the same losses, the same adapter and the same head.

    Args:
        bench: a recipe with the method lora.
        plain: the base model as transformers alone loads it.
        head: name of its new head.
        folder: a folder for checkpoints.
    """
    from peft import LoraConfig, get_peft_model
    from transformers import Trainer, set_seed

    from adapterzoo.model import base
    from adapterzoo.running.cell import adapt
    from adapterzoo.running.watch import Watch
    from adapterzoo.training.arguments import arguments

    prepared, cell = bench.prepared, bench.cells["lora"]
    loaded = base.load(
        bench.recipe.model, prepared.location, "none", bench.recipe.data.max_length, prepared.encoded.form
    )
    with loaded.borrow() as model:
        adapted = adapt(prepared, cell, model, Watch())
        trained = bench.train("lora", adapted.model, folder / "ours")
        ours = {name: value.clone() for name, value in adapted.model.state_dict().items()}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        getattr(plain, head).weight.data.normal_(0.0, plain.config.initializer_range)
    if getattr(plain, head).bias is not None:
        getattr(plain, head).bias.data.zero_()
    set_seed(0)
    # Name the head in modules_to_save. Otherwise PEFT counts it among all linear layers, and adapts it.
    settings = {"r": 8, "lora_alpha": 32, "target_modules": "all-linear", "modules_to_save": [head]}
    peft = get_peft_model(plain, LoraConfig(task_type=prepared.task.task_type, **settings))
    given = arguments(bench.recipe.train, prepared.steps, cell.learning_rate, 0, folder / "plain", fp16=False)
    trainer = Trainer(peft, given, train_dataset=prepared.encoded.train, data_collator=prepared.encoded.collate)
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert [entry["loss"] for entry in trained.history] == pytest.approx(losses, rel=1e-5)
    theirs = {name: value for name, value in peft.state_dict().items() if "lora" in name or "modules_to_save" in name}
    assert theirs
    assert all(torch.allclose(ours[name], theirs[name], atol=1e-6) for name in theirs)
