"""The ``train`` section: the training that every method gets."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from adapterzoo.recipe.values import LearningRate, Section, StepsOrShare

# Schedulers that go by the loss on the validation rows.
ON_EVALUATION = ("reduce_lr_on_plateau", "greedy")


class TrainSection(Section):
    """The training that every method gets."""

    steps: int | None = Field(None, ge=1, le=10**9, description="optimizer steps")
    epochs: float | None = Field(None, gt=0, le=1e6, description="passes over the training rows, in place of steps")
    batch_size: int = Field(8, ge=1, description="rows in one forward pass")
    gradient_accumulation: int = Field(1, ge=1, description="forward passes for one optimizer step")
    learning_rate: LearningRate = Field("auto", description="auto = each method's own")
    scheduler: str = Field("linear", description="any of the transformers trainer's: cosine, reduce_lr_on_plateau, ...")
    scheduler_options: dict[str, Any] = Field(default_factory=dict, description="what that scheduler takes")
    warmup: StepsOrShare = Field(0.1, description="steps, or a share of all steps")
    optimizer: str = Field("adamw_torch", description="any of the transformers trainer's")
    weight_decay: float = Field(0.0, ge=0, description="the optimizer's")
    max_grad_norm: float = Field(1.0, gt=0, description="longer gradients are scaled down to it")
    gradient_checkpointing: bool = Field(False, description="less memory, a third more work")
    eval_steps: StepsOrShare = Field(0, description="loss on the validation rows every so often; 0 = never")
    save_steps: StepsOrShare = Field(0, description="checkpoint every so often, to go on from; 0 = never")
    save_limit: int = Field(1, ge=1, description="how many checkpoints are kept; none after a cell is finished")
    group_by_length: bool = Field(False, description="batches of like length: less padding, rows in another order")
    share_prefix: Literal["auto", "never"] = Field(
        "auto",
        description="auto = where that changes nothing, rows are joined: no padding, and what all begin with only once",
    )
    loggers: list[str] = Field(default_factory=list, description="tensorboard, wandb, ... (transformers' report_to)")
    arguments: dict[str, Any] = Field(
        default_factory=dict, description="any other of transformers' TrainingArguments, as they are named there"
    )

    @model_validator(mode="after")
    def _length(self) -> TrainSection:
        if self.steps is not None and self.epochs is not None:
            raise PydanticCustomError("value", "has steps and epochs: give one of them.")
        if self.steps is None and self.epochs is None:
            self.epochs = 1.0
        return self
