"""The recipe: what one comparison trains, on what, and how it is measured. Its keys, their types and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from adapterzoo.errors import did_you_mean

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Labels of the rows for the untouched base, and a file in the output folder.
RESERVED_LABEL = re.compile(r"base(-\d+-shot)?|recipe\.yaml")
FORMATS = {"qa": ("question", "answer"), "prompt_completion": ("prompt", "completion")}
# Keys of a method's entry that are not the method's own options.


def _checked(accepts: Callable[[Any], bool], wanted: str) -> BeforeValidator:
    """One plain sentence for a value of several possible types, where pydantic would give one error for each."""

    def check(value: Any) -> Any:
        if not accepts(value):
            raise PydanticCustomError(
                "value", "must be {wanted}, not {value}.", {"wanted": wanted, "value": repr(value)}
            )
        return value

    return BeforeValidator(check)


def _number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _safe_name(value: Any) -> bool:
    return isinstance(value, str) and SAFE_NAME.fullmatch(value) is not None


Name = Annotated[str, _checked(_safe_name, "letters, digits, '.', '_' and '-' (it becomes a folder)")]
LearningRate = Annotated[
    float | Literal["auto"],
    _checked(lambda value: value == "auto" or (_number(value) and value > 0), "a positive number, or auto"),
]
StepsOrShare = Annotated[
    int | float,
    _checked(
        lambda value: _number(value) and value >= 0 and (isinstance(value, int) or value < 1),
        "a number of steps, or a share of all steps below 1",
    ),
]


NewTokens = Annotated[
    int | Literal["auto"],
    _checked(lambda value: value == "auto" or (type(value) is int and value > 0), "a positive number, or auto"),
]


class Section(BaseModel):
    """A part of the recipe: unknown keys are refused, and no type is guessed from another."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class ModelSection(Section):
    """The base model and how it is loaded."""

    name: str = Field(min_length=1, description="a bundled name, a folder, or a hub id")
    revision: str | None = Field(None, description="branch, tag or commit of a hub id")
    quantization: Literal["none", "int8", "nf4"] = Field("none", description="how the frozen base is stored")
    dtype: Literal["bfloat16", "float16", "float32"] = Field(
        "bfloat16", description="of the weights that are not quantized, and of the computation"
    )
    double_quantization: bool = Field(True, description="nf4: quantize the quantization constants too")
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2"] = Field(
        "auto", description="attention kernel; auto takes the fastest for this device and length"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model: only if you trust it")


class Split(Section):
    """Shares of the rows; which row goes where depends on its content and the seed alone."""

    train: float = Field(0.8, gt=0, le=1)
    validation: float = Field(0.1, ge=0, lt=1)
    test: float = Field(0.1, gt=0, lt=1)
    seed: int = 0

    @model_validator(mode="after")
    def _sum(self) -> Split:
        if self.train + self.validation + self.test > 1 + 1e-9:
            raise PydanticCustomError("value", "has shares that add up to more than 1 (not given: validation is 0.1).")
        return self


class DataSection(Section):
    """The examples."""

    source: str = Field(min_length=1, description="a CSV file; relative to the recipe, or to where you are")
    format: Literal["qa", "prompt_completion"] = Field("qa", description="which columns an example is made of")
    columns: dict[str, str] = Field(default_factory=dict, description="format's name for a column -> yours")
    system: str | None = Field(None, description="system message in front of every example")
    split: Split = Field(default_factory=Split)
    max_length: int = Field(512, ge=2, description="tokens of prompt and completion together; the rest is cut")
    loss_on: Literal["completion"] = "completion"

    @model_validator(mode="after")
    def _columns(self) -> DataSection:
        for name in self.columns:
            if name not in FORMATS[self.format]:
                raise PydanticCustomError(
                    "value",
                    "is for no column of the format {format}. {hint}",
                    {"format": self.format, "hint": did_you_mean(name, FORMATS[self.format]), "at": ("columns", name)},
                )
        return self

    @property
    def prompt_column(self) -> str:
        """The user's name for the column that holds the question."""
        return self.columns.get(FORMATS[self.format][0], FORMATS[self.format][0])

    @property
    def completion_column(self) -> str:
        """The user's name for the column that holds the answer."""
        return self.columns.get(FORMATS[self.format][1], FORMATS[self.format][1])


class TrainSection(Section):
    """The training that every method gets."""

    steps: int | None = Field(None, ge=1, description="optimizer steps")
    epochs: float | None = Field(None, gt=0, le=1e6, description="passes over the training rows, in place of steps")
    batch_size: int = Field(8, ge=1)
    gradient_accumulation: int = Field(1, ge=1)
    learning_rate: LearningRate = Field("auto", description="auto = each method's own")
    scheduler: Literal["linear", "cosine", "constant", "constant_with_warmup"] = "linear"
    warmup: StepsOrShare = Field(0.1, description="steps, or a share of all steps")
    optimizer: str = Field("adamw_torch", description="any of the transformers trainer's")
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    gradient_checkpointing: bool = Field(False, description="less memory, a third more work")
    eval_steps: StepsOrShare = Field(0, description="loss on the validation rows every so often; 0 = never")
    save_steps: StepsOrShare = Field(0, description="checkpoint every so often, to go on from; 0 = never")
    loggers: list[str] = Field(default_factory=list, description="tensorboard, wandb, ... (transformers' report_to)")

    @model_validator(mode="after")
    def _length(self) -> TrainSection:
        if self.steps is not None and self.epochs is not None:
            raise PydanticCustomError("value", "has steps and epochs: give one of them.")
        if self.steps is None and self.epochs is None:
            self.epochs = 1.0
        return self


Metric = Literal["loss", "perplexity", "exact_match"]


class EvaluateSection(Section):
    """The measurement that every row gets, on the test split."""

    metrics: list[Metric] = Field(default_factory=lambda: list(get_args(Metric)), min_length=1)
    batch_size: int = Field(32, ge=1)
    max_new_tokens: NewTokens = Field("auto", description="auto = the longest answer of the test split")
    base: bool = Field(True, description="measure the untouched base model too")
    shots: int = Field(4, ge=0, description="and once more with this many examples in the prompt; 0 = not")


class MethodEntry(BaseModel):
    """One line of ``methods``: a method under a label, with the options that differ from its defaults."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str
    label: Name
    learning_rate: LearningRate = "auto"

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        if isinstance(value, str):
            return {"name": value, "label": value}
        if isinstance(value, dict) and "label" not in value:
            return {**value, "label": value.get("name")}
        return value

    @property
    def options(self) -> dict[str, Any]:
        """The method's own options, as written."""
        return dict(self.model_extra or {})


class Recipe(Section):
    """A whole recipe. Read one with :func:`adapterzoo.load_recipe`."""

    name: Name
    model: ModelSection
    data: DataSection
    train: TrainSection = Field(default_factory=TrainSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    methods: list[MethodEntry] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(default_factory=lambda: [0], min_length=1)

    @model_validator(mode="after")
    def _seeds(self) -> Recipe:
        if len(set(self.seeds)) < len(self.seeds):
            raise PydanticCustomError("value", "has the same seed twice.", {"at": ("seeds",)})
        return self

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default spelled out, as plain data that reads back as the same recipe."""
        return self.model_dump(mode="json", exclude_none=True)
