"""Check the training itself: steps, gradient accumulation and checkpointing, schedule, optimizer and seed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import task_runs
from cells import Bench

from adapterzoo.model import base
from adapterzoo.recipe.schema import TrainSection
from adapterzoo.running.cell import adapt, train
from adapterzoo.running.watch import Watch
from adapterzoo.training.steps import in_steps, total_steps


def losses(recipe: Path, folder: Path, *overrides: str) -> list[float]:
    bench = Bench(recipe, *overrides)
    with bench.wrapped("lora", bench.load(bench.recipe.model.quantization)) as model:
        return [entry["loss"] for entry in bench.train("lora", model, folder).history if "loss" in entry]


def test_steps_follow_from_epochs_and_from_shares() -> None:
    assert total_steps(TrainSection(steps=7), 100) == 7
    assert total_steps(TrainSection(epochs=2.0, batch_size=8, gradient_accumulation=2), 100) == 14
    assert total_steps(TrainSection(epochs=3.0, batch_size=8), 10) == 6, "an epoch has a batch of 8 rows and one of 2"
    assert total_steps(TrainSection(), 100) == 13
    pairs = TrainSection(epochs=2.0, batch_size=4)
    assert total_steps(pairs, 21, smallest_batch=2) == 10, "a last batch of one row is left out, if a loss needs two"
    assert total_steps(pairs, 22, smallest_batch=2) == 12
    assert in_steps(10, 100) == 10
    assert in_steps(0.05, 30) == 2


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_gradient_checkpointing_changes_no_loss(
    quantization: str, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe, setting = write_recipe("lora"), f"model.quantization={quantization}"
    plain = losses(recipe, tmp_path, setting)
    assert losses(recipe, tmp_path, setting, "train.gradient_checkpointing=true") == pytest.approx(plain, rel=1e-6)


def test_gradient_accumulation_equals_a_larger_batch(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Each token counts the same, so a forward pass with few tokens counts less."""
    recipe = write_recipe("lora", batch_size="8")
    text = recipe.read_text().replace("evaluate:\n  batch_size: 8", "evaluate:\n  batch_size: 4")
    recipe.write_text(text)
    whole = losses(recipe, tmp_path, "train.steps=3")
    parts = losses(recipe, tmp_path, "train.steps=3", "train.batch_size=2", "train.gradient_accumulation=4")
    assert parts == pytest.approx(whole, rel=1e-5)


@pytest.mark.parametrize("task", ["classification", "token_classification"])
def test_in_other_tasks_too_gradient_accumulation_equals_a_larger_batch(
    task: str, tiny_model: Path, tmp_path: Path
) -> None:
    """The batches of a step have different numbers of tags, and the last one of an epoch has fewer rows."""
    model = shutil.copytree(tiny_model, tmp_path / "model")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "classifier_dropout": 0.0}))
    texts = [[word[: 1 + number % 5] for word in task_runs.WORDS[: 1 + number % 7]] for number in range(37)]
    tagged = [{"words": words, "tags": ["B-X" if len(word) > 2 else "O" for word in words]} for words in texts]
    labelled = [{"text": " ".join(words), "label": str(len(words) % 2)} for words in texts]
    rows = tagged if task == "token_classification" else labelled

    recipe = task_runs.write_recipe(tmp_path, model, rows, task)

    def of_steps(*overrides: str) -> list[float]:
        bench, folder = Bench(recipe, *overrides), tmp_path / "checkpoints"
        cell, prepared = bench.cells["lora"], bench.prepared
        loaded = base.load(bench.recipe.model, prepared.location, "none", 64, prepared.encoded.form)
        with loaded.borrow() as borrowed:
            trained = train(prepared, cell, adapt(prepared, cell, borrowed, Watch()), folder, Watch())
        return [entry["loss"] for entry in trained.history]

    parts = of_steps("train.batch_size=3", "train.gradient_accumulation=2")
    assert parts == pytest.approx(of_steps("train.batch_size=6"), rel=1e-5)


def test_scheduler_and_optimizer_work_with_nf4_without_double_quantization(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(
        write_recipe("lora"), "train.steps=10", "train.scheduler=cosine", "train.warmup=2", "train.optimizer=adafactor",
        "model.quantization=nf4", "model.double_quantization=false",
    )  # fmt: skip
    with bench.wrapped("lora", bench.load("nf4")) as model:
        history = bench.train("lora", model, tmp_path, learning_rate=1e-3).history
    rates = [entry["learning_rate"] for entry in history]
    assert max(rates) == pytest.approx(1e-3)
    assert rates.index(max(rates)) == 2
    assert rates == [*rates[:3], *sorted(rates[3:], reverse=True)]


def test_a_seed_sets_the_initial_weights_and_the_order(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    recipe = write_recipe("lora")
    runs = [losses(recipe, tmp_path, f"seeds=[{seed}]") for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]
