"""The recipe: what one comparison trains, on what, and how it is measured. Its keys, their types and limits."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from adapterzoo.errors import did_you_mean
from adapterzoo.formats import FORMATS

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Labels of the rows for the untouched base, and a file in the output folder.
RESERVED_LABEL = re.compile(r"base(-\d+-shot)?|recipe\.yaml")


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


def _part(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    if isinstance(value, list):
        return bool(value) and all(isinstance(one, str) and one for one in value)
    return _number(value) and 0 <= value <= 1


Part = Annotated[
    float | str | list[str],
    _checked(_part, "a share from 0 to 1, the name of a split, or files"),
    AfterValidator(lambda value: float(value) if isinstance(value, int) else value),
]
Source = Annotated[
    str | list[str],
    _checked(lambda value: isinstance(value, (str, list)) and _part(value), "a file, a list of files, or a hub id"),
]
Scalar = str | int | float | bool


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
    padding_token: str | None = Field(
        None, min_length=1, description="padding token to add, with room in the embeddings; else one that is there"
    )
    trust_remote_code: bool = Field(False, description="run code that comes with the model: only if you trust it")


class Split(Section):
    """Parts by share, or as given. Which row goes where depends on its content and the seed alone."""

    train: Part = Field(0.8, description="a share; or files, or the name of a split of the source")
    validation: Part = Field(0.1, description="as train; 0 = none")
    test: Part = Field(0.1, description="as train")
    seed: int = Field(0, description="another one gives other parts")
    group_by: str | None = Field(None, description="rows alike in this column go to the same part; else by prompt")
    duplicates: Literal["error", "drop", "keep"] = Field(
        "error", description="rows of train that are in validation or test too: drop leaves them out of train"
    )

    @model_validator(mode="after")
    def _sum(self) -> Split:
        shares = [part for part in (self.train, self.validation, self.test) if isinstance(part, float)]
        if sum(shares) > 1 + 1e-9 and isinstance(self.train, float):
            raise PydanticCustomError("value", "has shares that add up to more than 1 (not given: validation is 0.1).")
        for name in ("train", "test"):
            if getattr(self, name) == 0:
                raise PydanticCustomError("value", "has no rows for {part}.", {"part": name, "at": (name,)})
        return self


class DataSection(Section):
    """The examples."""

    source: Source | None = Field(
        None, description="files (csv, tsv, json, jsonl, parquet, arrow), a saved dataset's folder, or a hub id; "
        "paths are relative to the recipe, or to where you are"
    )  # fmt: skip
    config: str | None = Field(None, description="configuration of a hub dataset")
    revision: str | None = Field(None, description="branch, tag or commit of a hub dataset")
    delimiter: str | None = Field(None, min_length=1, max_length=1, description="between the columns of a CSV file")
    format: str = Field("auto", description=f"auto = recognised from the columns; {', '.join(FORMATS)}")
    columns: dict[str, str] = Field(default_factory=dict, description="format's name for a column -> yours")
    template: str | None = Field(
        None,
        description="text with {column} in it: the question, or, if it names the answer's column, the whole example",
    )
    system: str | None = Field(None, description="system message in front of every example that has none")
    chat_template: str = Field(
        "auto", description="auto = the model's own, and plain if it has none; plain; or a file with a Jinja template"
    )
    loss_on: Literal["completion", "assistant", "all"] = Field(
        "completion", description="the last answer; every answer of a conversation; or every token"
    )
    filter: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict, description="column -> the value, or values, that its rows must have"
    )
    drop_columns: list[str] = Field(default_factory=list, description="columns to read as if they were not there")
    bad_rows: Literal["error", "drop"] = Field("error", description="rows that are not of the format")
    shuffle: int | None = Field(None, ge=0, description="a seed: take rows in an order of its own")
    limit: int | None = Field(None, ge=1, description="only the first so many usable rows")
    split: Split = Field(default_factory=Split)
    max_length: int = Field(512, ge=2, description="tokens of an example")
    truncate: Literal["prompt", "completion", "drop"] = Field(
        "prompt", description="where an example that is too long is cut; drop = it is left out"
    )
    packing: bool = Field(False, description="train on several examples in one row of max_length tokens")

    @model_validator(mode="after")
    def _consistent(self) -> DataSection:
        if self.format != "auto" and self.format not in FORMATS:
            hint = did_you_mean(self.format, ["auto", *FORMATS])
            raise PydanticCustomError(
                "value", "is {name}. {hint}", {"name": repr(self.format), "hint": hint, "at": ("format",)}
            )
        # Of a format that is to be recognised, any may be meant.
        forms = [FORMATS[self.format]] if self.format in FORMATS else list(FORMATS.values())
        known = list(dict.fromkeys(name for form in forms for name in (*form.columns, *form.optional)))
        for name in self.columns:
            if name not in known:
                raise PydanticCustomError(
                    "value",
                    "is for no column of {format}. {hint}",
                    {
                        "format": f"the format {self.format}" if len(forms) == 1 else "any format",
                        "hint": did_you_mean(name, known),
                        "at": ("columns", name),
                    },
                )
        if self.source is None and not isinstance(self.split.train, (str, list)):
            raise PydanticCustomError("value", "is missing.", {"at": ("source",)})
        return self

    @property
    def sources(self) -> list[str]:
        """The source's files, or its hub id."""
        return [self.source] if isinstance(self.source, str) else list(self.source or [])


class TrainSection(Section):
    """The training that every method gets."""

    steps: int | None = Field(None, ge=1, description="optimizer steps")
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


class EvaluateSection(Section):
    """The measurement that every row gets, on the test split."""

    metrics: list[str] = Field(
        default_factory=lambda: ["exact_match", "loss", "perplexity"],
        min_length=1,
        description="by name, the first decides the order of the table; plain text has no answers to compare",
    )
    batch_size: int = Field(32, ge=1, description="rows measured at once; fewer where many tokens are in the loss")
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

    name: Name = Field(description="of the folder for the results, unless --out names one")
    model: ModelSection
    data: DataSection
    train: TrainSection = Field(default_factory=TrainSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    methods: list[MethodEntry] = Field(
        min_length=1, description="names, or {name: lora, label: lora-r64, learning_rate: 1e-4, r: 64} with options"
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        default_factory=lambda: [0], min_length=1, description="each method is trained with each"
    )

    @model_validator(mode="after")
    def _seeds(self) -> Recipe:
        if len(set(self.seeds)) < len(self.seeds):
            raise PydanticCustomError("value", "has the same seed twice.", {"at": ("seeds",)})
        return self

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default spelled out, as plain data that reads back as the same recipe."""
        return self.model_dump(mode="json", exclude_none=True)
