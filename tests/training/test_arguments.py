"""Check the train section: every key reaches the trainer, other arguments can be passed, and mistakes are refused."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cells import Bench, StopError, assert_same, stop_at_five
from click.testing import Result

from adapterzoo.recipe.schema import TrainSection
from adapterzoo.training.arguments import SET_BY, arguments, check_settings


def trainer_arguments(**settings: Any) -> Any:
    return arguments(TrainSection(**settings), 100, 1e-3, 7, Path("unused"), fp16=False)


def test_every_key_reaches_the_trainer() -> None:
    got = trainer_arguments(
        batch_size=3,
        gradient_accumulation=2,
        scheduler="cosine_with_restarts",
        scheduler_options={"num_cycles": 2},
        warmup=0.05,
        optimizer="paged_adamw_8bit",
        weight_decay=0.1,
        max_grad_norm=0.3,
        gradient_checkpointing=True,
        eval_steps=0.2,
        save_steps=25,
        save_limit=3,
        group_by_length=True,
        arguments={"adam_beta2": 0.95, "label_smoothing_factor": 0.1},
    )
    assert (got.per_device_train_batch_size, got.gradient_accumulation_steps, got.max_steps) == (3, 2, 100)
    assert (got.lr_scheduler_type, got.lr_scheduler_kwargs, got.warmup_steps) == (
        "cosine_with_restarts",
        {"num_cycles": 2},
        5,
    )
    assert (got.optim, got.weight_decay, got.max_grad_norm) == ("paged_adamw_8bit", 0.1, 0.3)
    # save_total_limit is None, because adapterzoo removes old checkpoints; the trainer would do it file by file.
    assert (got.eval_steps, got.save_steps, got.save_total_limit) == (20, 25, None)
    assert (got.seed, got.data_seed, got.gradient_checkpointing) == (7, 7, True)
    assert got.train_sampling_strategy == "group_by_length"
    assert (got.adam_beta2, got.label_smoothing_factor) == (0.95, 0.1)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"scheduler": "cosin"}, "train.scheduler: transformers has no 'cosin'. Did you mean 'cosine'?"),
        ({"scheduler": "reduce_lr_on_plateau"}, "depends on the validation loss, which is never measured"),
        (
            {"warmup": 100},
            "none of the 100 steps for training. Give fewer than 100 steps, or a share of all steps like 0.1.",
        ),
        ({"scheduler_options": {"x": 1}}, "train.scheduler_options: 'linear' got an unexpected keyword argument 'x'."),
        ({"arguments": {"adam_beta": 0.9}}, "train.arguments.adam_beta: the trainer has no 'adam_beta'. Did you mean"),
        ({"arguments": {"learning_rate": 1}}, "train.arguments.learning_rate: is set by train.learning_rate."),
        ({"arguments": {"seed": 1}}, "train.arguments.seed: is set by seeds."),
        ({"arguments": {"fp16": True}}, "is set by model.dtype."),
        (
            {"gradient_checkpointing": True, "arguments": {"activation_checkpointing": False}},
            "train.arguments.activation_checkpointing: is set by train.gradient_checkpointing.",
        ),
        ({"arguments": {"logging_steps": 5}}, "is set by adapterzoo itself."),
        ({"arguments": {"adam_beta1": [1]}}, "train.arguments.adam_beta1: is [1], and must be float."),
        (
            {"arguments": {"log_level": "loud"}},
            "train.arguments.log_level: is 'loud', and must be one of: critical, debug, detail",
        ),
        ({"arguments": {"neftune_noise_alpha": "x"}}, "train.arguments.neftune_noise_alpha: is 'x', and must be float"),
        ({"arguments": {"torch_empty_cache_steps": 0}}, "train.arguments: the trainer refuses these settings: "),
        *(
            ({"arguments": {name: value}}, f"train.arguments.{name}: is set by adapterzoo itself.")
            for name, value in {
                "dataloader_num_workers": 1,
                "eval_on_start": True,
                "auto_find_batch_size": True,
                "dataloader_drop_last": True,
            }.items()
        ),
        ({"optimizer": "schedule_free_adamw"}, "has other weights for training than for measuring"),
    ],
)
def test_mistakes_are_refused(settings: dict[str, Any], expected: str) -> None:
    messages = "\n".join(map(str, check_settings(TrainSection(**settings), 100)))
    assert expected in messages


def test_the_arguments_that_a_recipe_cannot_pass_are_the_trainers() -> None:
    from dataclasses import fields

    from transformers import TrainingArguments

    known = {field.name for field in fields(TrainingArguments)}
    # People still write these names of older versions.
    assert set(SET_BY) - known <= {"warmup_ratio", "group_by_length"}


def test_a_plateau_lowers_the_learning_rate(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    sets = (
        "train.scheduler=reduce_lr_on_plateau",
        "train.scheduler_options={patience: 0, factor: 0.1}",
        "train.eval_steps=1",
        "train.learning_rate=0.3",  # so high that the loss cannot fall at every step
        "train.warmup=0",
    )
    bench = Bench(write_recipe("lora"), *sets)
    with bench.wrapped("lora", bench.load("none")) as model:
        history = bench.train("lora", model, tmp_path).history
    rates = [entry["learning_rate"] for entry in history if "learning_rate" in entry]
    assert rates[0] == pytest.approx(0.3)
    assert min(rates) < 0.05


def test_batches_of_similar_length_go_on_in_a_later_epoch(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    bench = Bench(write_recipe("lora"), "train.group_by_length=true", "train.batch_size=8", "train.save_steps=2")
    steps_of_an_epoch = math.ceil(len(bench.prepared.encoded.train) / 8)
    assert 2 <= steps_of_an_epoch < 4 < bench.prepared.steps, "the checkpoint of step 4 is in a later epoch"
    loaded = bench.load("none")
    expected = bench.adapter("lora", loaded, tmp_path / "whole")
    with pytest.raises(StopError):
        bench.adapter("lora", loaded, tmp_path / "stopped", on_step=stop_at_five)
    assert_same(bench.adapter("lora", loaded, tmp_path / "stopped"), expected)


def test_batches_of_rows_of_similar_length(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The batches are the same for every method and have less padding than random batches."""
    from adapterzoo.tokens import encoded

    seen: dict[str, list[list[int]]] = {}
    pad_batch = encoded.pad_batch
    for label, grouped in (("lora", True), ("ia3", True), ("random", False)):
        bench = Bench(write_recipe("lora, ia3"), f"train.group_by_length={str(grouped).lower()}", "train.batch_size=2")
        method = "lora" if label == "random" else label
        lengths: list[list[int]] = []

        def recording(rows: Any, pad_id: int, lengths: list[list[int]] = lengths) -> Any:
            lengths.append([len(ids) for ids, _ in rows])
            return pad_batch(rows, pad_id)

        encoded.pad_batch = recording
        try:
            with bench.wrapped(method, bench.load("none")) as model:
                bench.train(method, model, tmp_path / label)
        finally:
            encoded.pad_batch = pad_batch
        seen[label] = lengths
    assert seen["lora"] == seen["ia3"]
    spread = {name: sum(max(batch) - min(batch) for batch in batches) for name, batches in seen.items()}
    assert spread["lora"] < spread["random"]


def test_only_the_newest_checkpoints_are_kept(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    bench = Bench(write_recipe("lora"), "train.save_steps=1", "train.save_limit=2")
    with bench.wrapped("lora", bench.load("none")) as model:
        bench.train("lora", model, tmp_path)
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-5", "checkpoint-6"]


def test_an_unknown_argument_of_the_trainer_is_reported(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    done = adapterzoo("check", write_recipe("lora"), "--set", "train.arguments={adam_beta2: 0.9, x: 1}")
    assert done.exit_code == 2
    assert "train.arguments.x: the trainer has no 'x'" in done.stderr


def test_the_files_of_a_logger_are_kept_after_the_run(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("lora", steps="2")
    done = adapterzoo("run", recipe, "--set", "train.loggers=[tensorboard]", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert list((tmp_path / "out" / "lora" / "seed-0" / "logs").glob("*tfevents*"))
