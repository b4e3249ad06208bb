"""Turn the recipe's ``train`` section into transformers' TrainingArguments, and find what cannot work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from pydantic import ConfigDict, TypeAdapter, ValidationError
from transformers import Trainer, TrainingArguments, get_scheduler

from adapterzoo.errors import Problem, did_you_mean
from adapterzoo.machine import ranks
from adapterzoo.recipe.schema import TrainSection
from adapterzoo.recipe.train import ON_EVALUATION
from adapterzoo.training.steps import in_steps

# The trainer's arguments that a recipe cannot pass -> the recipe key, option or program that sets them.
SET_BY = {
    "max_steps": "train.steps",
    "num_train_epochs": "train.epochs",
    "per_device_train_batch_size": "train.batch_size",
    "per_device_eval_batch_size": "train.batch_size",
    "gradient_accumulation_steps": "train.gradient_accumulation",
    "learning_rate": "train.learning_rate",
    "lr_scheduler_type": "train.scheduler",
    "lr_scheduler_kwargs": "train.scheduler_options",
    "warmup_steps": "train.warmup",
    "warmup_ratio": "train.warmup",
    "optim": "train.optimizer",
    "weight_decay": "train.weight_decay",
    "max_grad_norm": "train.max_grad_norm",
    "gradient_checkpointing": "train.gradient_checkpointing",
    "gradient_checkpointing_kwargs": "train.gradient_checkpointing",
    "activation_checkpointing": "train.gradient_checkpointing",
    "activation_checkpointing_kwargs": "train.gradient_checkpointing",
    "bf16": "model.dtype",
    "fp16": "model.dtype",
    "tf32": "model.tf32",
    "seed": "seeds",
    "data_seed": "seeds",
    "eval_strategy": "train.eval_steps",
    "eval_steps": "train.eval_steps",
    "save_strategy": "train.save_steps",
    "save_steps": "train.save_steps",
    "save_total_limit": "train.save_limit",
    "report_to": "train.loggers",
    "group_by_length": "train.group_by_length",
    "train_sampling_strategy": "train.group_by_length",
    "output_dir": "--out",
    **dict.fromkeys(("deepspeed", "fsdp", "fsdp_config"), "train.sharding"),
    **dict.fromkeys(
        (
            "logging_steps",
            "logging_strategy",
            "logging_nan_inf_filter",
            "include_num_input_tokens_seen",
            "remove_unused_columns",
            "disable_tqdm",
            "resume_from_checkpoint",
            "load_best_model_at_end",
            "eval_on_start",
            # Batches are counted where they are made, in the process that trains.
            "dataloader_num_workers",
            "dataloader_prefetch_factor",
            "dataloader_persistent_workers",
            "auto_find_batch_size",  # rows would be trained with other batches than the recipe's
            "dataloader_drop_last",  # an epoch has all rows, as train.epochs counts them
            "ignore_data_skip",
            "save_only_model",
            "push_to_hub",
            "do_train",
            "do_eval",
            "do_predict",
        ),
        "adapterzoo itself",
    ),
}


def check_settings(settings: TrainSection, steps: int) -> list[Problem]:
    """Return the problems of the ``train`` section: what transformers does not know, cannot import or refuses."""
    problems = [*_optimizer(settings), *_scheduler(settings), *_loggers(settings)]
    if in_steps(settings.warmup, steps) >= steps > 1:
        what = f"a warmup of {settings.warmup} leaves none of the {steps} steps for training."
        hint = f"Give fewer than {steps} steps, or a share of all steps like 0.1."
        problems.append(Problem("train.warmup", what, hint))
    problems += _passed_arguments(settings.arguments)
    if not problems:
        try:
            arguments(settings, steps, 1e-4, 0, Path("unused"), fp16=False)
        except Exception as error:  # each argument has its own checks, which raise different errors
            reason = " ".join(str(error).split()).rstrip(".")
            where = "train.arguments" if settings.arguments else "train"
            problems.append(Problem(where, f"the trainer refuses these settings: {reason}."))
    return problems


def _passed_arguments(values: Mapping[str, Any]) -> list[Problem]:
    """Return a problem for each argument that does not exist, that is set elsewhere, or whose type is wrong."""
    known = {field.name: field for field in fields(TrainingArguments) if field.init and field.name not in SET_BY}
    types = get_type_hints(TrainingArguments)
    problems = []
    for name, value in values.items():
        place = f"train.arguments.{name}"
        if name in SET_BY:
            problems.append(Problem(place, f"is set by {SET_BY[name]}."))
            continue
        if name not in known:
            problems.append(Problem(place, f"the trainer has no '{name}'.", did_you_mean(name, known)))
            continue
        choices = known[name].metadata.get("choices")
        if choices and value not in choices:
            problems.append(
                Problem(place, f"is {value!r}, and must be one of: {', '.join(map(str, sorted(choices)))}.")
            )
            continue
        try:
            TypeAdapter(types[name], config=ConfigDict(arbitrary_types_allowed=True)).validate_python(value)
        except ValidationError:
            wanted = types[name].__name__ if isinstance(types[name], type) else str(types[name]).replace("typing.", "")
            problems.append(Problem(place, f"is {value!r}, and must be {wanted}."))
    return problems


def _optimizer(settings: TrainSection) -> list[Problem]:
    from transformers.training_args import OptimizerNames

    optimizers = [str(optimizer.value) for optimizer in OptimizerNames]
    if settings.optimizer not in optimizers:
        hint = did_you_mean(settings.optimizer, optimizers)
        return [Problem("train.optimizer", f"transformers has no '{settings.optimizer}'.", hint)]
    if "schedule_free" in settings.optimizer:
        what = f"'{settings.optimizer}' has other weights for training than for measuring, which is not supported."
        return [Problem("train.optimizer", what, "Set it to adamw_torch.")]
    try:
        Trainer.get_optimizer_cls_and_kwargs(TrainingArguments(optim=settings.optimizer, report_to="none"))
    except (ImportError, ValueError, RuntimeError) as error:
        return [Problem("train.optimizer", f"'{settings.optimizer}' cannot be used here: {error}")]
    return []


def _scheduler(settings: TrainSection) -> list[Problem]:
    from transformers.trainer_utils import SchedulerType

    schedulers = [str(scheduler.value) for scheduler in SchedulerType]
    if settings.scheduler not in schedulers:
        hint = did_you_mean(settings.scheduler, schedulers)
        return [Problem("train.scheduler", f"transformers has no '{settings.scheduler}'.", hint)]
    if settings.scheduler in ON_EVALUATION and not settings.eval_steps:
        what = f"'{settings.scheduler}' depends on the validation loss, which is never measured."
        return [Problem("train.scheduler", what, "Set train.eval_steps.")]
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    try:
        get_scheduler(settings.scheduler, optimizer, 1, 10, settings.scheduler_options)
    except Exception as error:  # each scheduler has its own checks
        # Leave out the name of a function, as in "get_scheduler() got an unexpected keyword argument".
        reason = " ".join(str(error).split()).partition("() ")[2] or str(error)
        return [Problem("train.scheduler_options", f"'{settings.scheduler}' {reason}.")]
    return []


def _loggers(settings: TrainSection) -> list[Problem]:
    from transformers.integrations import get_available_reporting_integrations
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    problems = []
    for logger in settings.loggers:
        if logger not in INTEGRATION_TO_CALLBACK:
            hint = did_you_mean(logger, INTEGRATION_TO_CALLBACK)
            problems.append(Problem("train.loggers", f"transformers has no '{logger}'.", hint))
        elif logger not in get_available_reporting_integrations():
            problems.append(Problem("train.loggers", f"'{logger}' is not installed.", f"Try: pip install {logger}."))
    return problems


def arguments(
    settings: TrainSection, steps: int, learning_rate: float, seed: int, folder: Path, *, fp16: bool
) -> TrainingArguments:
    """Return the trainer's arguments.

    Args:
        settings: the recipe's ``train`` section.
        steps: number of optimizer steps.
        learning_rate: the cell's learning rate.
        seed: the cell's seed.
        folder: folder for checkpoints.
        fp16: whether to scale gradients, which float16 needs.
    """
    save_steps, eval_steps = in_steps(settings.save_steps, steps), in_steps(settings.eval_steps, steps)
    passed: dict[str, Any] = {"dataloader_pin_memory": torch.cuda.is_available(), **settings.arguments}
    if ranks.count() > 1:
        # Ranks divide batches themselves (training/parts.py); what is the same on all of them is not sent again.
        passed |= {"average_tokens_across_devices": False, "accelerator_config": {"even_batches": False}}
        passed.setdefault("ddp_broadcast_buffers", False)
        passed["use_cpu"] = not torch.cuda.is_available()  # otherwise accelerate sees no other ranks on CPUs
    given = TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.gradient_accumulation,
        learning_rate=learning_rate,
        lr_scheduler_type=settings.scheduler,
        lr_scheduler_kwargs=settings.scheduler_options or None,
        warmup_steps=in_steps(settings.warmup, steps),
        optim=settings.optimizer,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        gradient_checkpointing=settings.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False} if settings.gradient_checkpointing else None,
        fp16=fp16,
        seed=seed,
        data_seed=seed,
        eval_strategy="steps" if eval_steps else "no",
        eval_steps=eval_steps or None,
        save_strategy="steps" if save_steps else "no",
        save_steps=save_steps or steps,
        save_total_limit=None,  # adapterzoo.training.checkpoints removes old checkpoints
        train_sampling_strategy="group_by_length" if settings.group_by_length else "random",
        logging_steps=1,
        logging_nan_inf_filter=False,  # otherwise a NaN is logged as 0.0, and training seems to succeed
        include_num_input_tokens_seen="non_padding",
        report_to=settings.loggers or "none",
        remove_unused_columns=False,
        disable_tqdm=True,
        **passed,
    )
    # Train on one GPU, because transformers would multiply the batch size by the number of GPUs.
    given._n_gpu = min(given.n_gpu, 1)
    return given
