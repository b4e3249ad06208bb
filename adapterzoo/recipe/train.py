"""The ``train`` section of a recipe: how every method is trained."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from adapterzoo.recipe.values import LearningRate, Section, StepsOrShare

# Schedulers that set the learning rate by the loss on the validation rows.
ON_EVALUATION = ("reduce_lr_on_plateau", "greedy")
ZERO_STAGES = {"zero2": 2, "zero3": 3}
"""value of ``sharding`` -> stage of DeepSpeed's ZeRO"""


class TrainSection(Section):
    """The settings by which every method is trained."""

    steps: int | None = Field(None, ge=1, le=10**9, description="optimizer steps")
    epochs: float | None = Field(
        None, gt=0, le=1e6, description="passes over the training rows; give this or steps [1]"
    )
    batch_size: int = Field(8, ge=1, description="rows in one forward pass")
    gradient_accumulation: int = Field(1, ge=1, description="forward passes per optimizer step")
    devices: int = Field(
        1, ge=1, le=64, description="processes, each with its GPU, that train a cell together and divide its batches"
    )
    sharding: Literal["none", "fsdp2", "zero2", "zero3"] = Field(
        "none",
        description="with devices: fsdp2 = each process holds only a part of the base model; in training, "
        "zero2 = of the gradients and the optimizer's state, by DeepSpeed; zero3 = and of all weights",
    )
    learning_rate: LearningRate = Field("auto", description="auto = the default of each method")
    scheduler: str = Field("linear", description="any scheduler of transformers: cosine, reduce_lr_on_plateau, ...")
    scheduler_options: dict[str, Any] = Field(default_factory=dict, description="arguments of the scheduler")
    warmup: StepsOrShare = Field(0.1, description="warmup steps, or their share of all steps")
    optimizer: str = Field("adamw_torch", description="any optimizer of transformers")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of the optimizer")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients with a larger norm are scaled down to this norm")
    gradient_checkpointing: bool = Field(False, description="use less memory and a third more computation")
    eval_steps: StepsOrShare = Field(
        0, description="steps between two measurements of the loss on the validation rows; 0 = never"
    )
    save_steps: StepsOrShare = Field(
        0, description="steps between two checkpoints; a stopped cell continues from the last one; 0 = never"
    )
    save_limit: int = Field(
        2, ge=1, description="checkpoints to keep, in case the last one is damaged; none is kept of a finished cell"
    )
    time_limit: float | None = Field(
        None, gt=0, description="seconds after which the process of a cell is ended and the cell fails [never]"
    )
    group_by_length: bool = Field(
        False, description="put rows of similar length into a batch: less padding, but another order of rows"
    )
    share_prefix: Literal["auto", "never"] = Field(
        "auto",
        description="auto = compute the common start of all rows only once, without padding, if it changes no result",
    )
    loggers: list[str] = Field(
        default_factory=list, description="where to log: tensorboard, wandb, ... (report_to of transformers)"
    )
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="any other TrainingArguments of transformers, by their names there"
    )

    @property
    def weight_parts(self) -> int:
        """Return the number of processes among which the weights of the base model are divided."""
        return self.devices if self.sharding == "fsdp2" else 1

    @model_validator(mode="after")
    def _rows_for_all(self) -> TrainSection:
        if self.devices > self.batch_size:
            what = f"has {self.devices} devices, and {self.batch_size} rows in a batch. Each device needs at least one."
            raise PydanticCustomError("value", what)
        if self.sharding != "none" and self.devices == 1:
            raise PydanticCustomError("value", f"has sharding: {self.sharding}, but one device. Set devices too.")
        return self

    @model_validator(mode="after")
    def _length(self) -> TrainSection:
        if self.steps is not None and self.epochs is not None:
            raise PydanticCustomError("value", "has steps and epochs. Give one of them.")
        if self.steps is None and self.epochs is None:
            self.epochs = 1.0
        return self
