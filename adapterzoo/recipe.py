"""The recipe: what one comparison trains, on what, and how it is measured. Everything is checked on reading."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError

from adapterzoo import document
from adapterzoo.document import Document, Location
from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.method import BASES, Method
from adapterzoo.registry import Registry, registry

SAFE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# Labels of the rows for the untouched base.
RESERVED_LABEL = re.compile(r"base(-\d+-shot)?")
FORMATS = {"qa": ("question", "answer"), "prompt_completion": ("prompt", "completion")}
# Keys of a method's entry that are not the method's own options.
ENTRY_KEYS = ("name", "label", "learning_rate")


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


class Section(BaseModel):
    """A part of the recipe: unknown keys are refused, and no type is guessed from another."""

    model_config = ConfigDict(extra="forbid", strict=True)


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
            raise PydanticCustomError("value", "has shares that add up to more than 1.")
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
    epochs: float | None = Field(None, gt=0, description="passes over the training rows, in place of steps")
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
    max_new_tokens: int | Literal["auto"] = Field("auto", description="auto = the longest answer of the test split")
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
    """A whole recipe. Read one with :func:`load_recipe`."""

    name: Name
    model: ModelSection
    data: DataSection
    train: TrainSection = Field(default_factory=TrainSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    methods: list[MethodEntry] = Field(min_length=1)
    seeds: list[Annotated[int, Field(ge=0)]] = Field(default_factory=lambda: [0], min_length=1)

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default spelled out, as plain data that reads back as the same recipe."""
        return self.model_dump(mode="json", exclude_none=True)


def load_recipe(path: str | Path, overrides: Sequence[str] = (), zoo: Registry | None = None) -> Recipe:
    """Read and check a recipe.

    Args:
        path: the YAML file.
        overrides: assignments like ``train.steps=10`` that replace what the file says.
        zoo: the methods to check against; by default all that are installed.

    Raises:
        UserError: with every problem of the recipe, each with its line.
    """
    path = Path(path)
    source = document.read(path)
    source.override(overrides)
    zoo = registry() if zoo is None else zoo
    problems: list[Problem] = []
    recipe = None
    try:
        recipe = Recipe.model_validate(source.data)
    except ValidationError as error:
        problems += [_problem(details, source, Recipe) for details in error.errors()]
    # From the raw data, so that one mistake elsewhere does not hide those in the methods.
    problems += _method_problems(source, zoo)
    if recipe is not None:
        found = find_source(recipe.data.source, path.parent)
        if found is None:
            problems.append(
                Problem(
                    source.where(("data", "source")),
                    f"there is no file '{recipe.data.source}'.",
                    f"Looked in {path.parent.absolute()} and in {Path.cwd()}.",
                )
            )
        else:
            recipe.data.source = str(found)
    if problems or recipe is None:
        raise UserError(*problems)
    for entry in recipe.methods:
        complete_entry(entry, zoo[entry.name], recipe.train.learning_rate)
    return recipe


def complete_entry(entry: MethodEntry, method: Method[Any], learning_rate: float | Literal["auto"]) -> None:
    """Spell out an entry's options and learning rate, so that the resolved recipe says what was run."""
    entry.__pydantic_extra__ = method.options(**entry.options).model_dump()
    if entry.learning_rate == "auto":
        entry.learning_rate = method.learning_rate if learning_rate == "auto" else float(learning_rate)


def find_source(source: str, folder: Path) -> Path | None:
    """A data file, looked for beside the recipe and then in the current folder; absolute."""
    for start in (folder, Path.cwd()):
        if (start / source).expanduser().is_file():
            return (start / source).expanduser().resolve()
    return None


def _method_problems(source: Document, zoo: Registry) -> list[Problem]:
    """Unknown methods and options, labels given twice, and methods on a base that they cannot train on."""
    model = source.data.get("model")
    quantization = model.get("quantization", "none") if isinstance(model, dict) else "none"
    entries = source.data.get("methods")
    problems: list[Problem] = []
    labels: set[str] = set()
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        location: Location = ("methods", index)
        settings = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
            continue  # the recipe's own check says so
        name = settings["name"]
        label = str(settings.get("label", name))
        if label in labels:
            problems.append(
                Problem(source.where(location), f"'{label}' is there twice.", "Give one of them a label of its own.")
            )
        if RESERVED_LABEL.fullmatch(label):
            problems.append(Problem(source.where(location), f"'{label}' is the label of the untouched base's row."))
        labels.add(label)
        if name not in zoo:
            left_out = [broken for broken in zoo.broken if broken.plugin == name]
            hint = f"Its plugin was left out: {left_out[0].reason}." if left_out else did_you_mean(name, zoo)
            problems.append(Problem(source.where((*location, "name")), f"unknown method '{name}'.", hint))
            continue
        method = zoo[name]
        base = method.base_for(quantization)
        if base in BASES and base not in method.bases:  # what is no quantization at all is said elsewhere
            problems.append(
                Problem(
                    source.where(location),
                    f"{name} cannot train on a base with quantization {base}.",
                    f"It trains on: {', '.join(method.bases)}.",
                )
            )
        try:
            method.options(**{key: value for key, value in settings.items() if key not in ENTRY_KEYS})
        except ValidationError as error:
            problems += [_problem(details, source, method.options, location, ENTRY_KEYS) for details in error.errors()]
    return problems


def _problem(
    details: ErrorDetails,
    source: Document,
    schema: type[BaseModel],
    prefix: Location = (),
    extra_keys: Sequence[str] = (),
) -> Problem:
    """A pydantic error as a sentence with the file and line."""
    # A check across several keys says itself which of them it means.
    inner = (*details["loc"], *details.get("ctx", {}).get("at", ()))
    location = (*prefix, *inner)
    key = ".".join(str(part) for part in inner) or "the recipe"
    kind, context = details["type"], details.get("ctx", {})
    value = details["input"]
    if kind == "extra_forbidden":
        hint = did_you_mean(str(inner[-1]), [*_keys_at(schema, inner[:-1]), *extra_keys])
        return Problem(source.where(location), f"unknown key '{key}'.", hint)
    if kind == "missing":
        return Problem(source.where(location), f"'{key}' is missing.")
    if kind == "value":
        return Problem(source.where(location), f"'{key}' {details['msg']}")
    if kind == "too_short":
        return Problem(source.where(location), f"'{key}' is empty.", "Give at least one.")
    if kind == "literal_error":
        expected = [word.strip("' ") for word in context["expected"].replace(" or ", ", ").split(", ")]
        hint = did_you_mean(value, expected) if isinstance(value, str) else ""
        return Problem(
            source.where(location),
            f"'{key}' is {value!r}; it can be {', '.join(expected)}.",
            hint if "Did" in hint else "",
        )
    if kind in ("model_type", "dict_type", "model_attributes_type"):
        return Problem(source.where(location), f"'{key}' must be a section of keys and values, not {value!r}.")
    message = details["msg"][0].lower() + details["msg"][1:]
    return Problem(source.where(location), f"'{key}' is {value!r}: {message}.")


def _keys_at(schema: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """The keys that a recipe may have at a place."""
    fields: Mapping[str, Any] = schema.model_fields
    for part in location:
        annotation = fields[str(part)].annotation if str(part) in fields else None
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        fields = annotation.model_fields
    return list(fields)
