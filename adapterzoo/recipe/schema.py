"""The schema of a recipe: every key with its type, its limits, its default and its description."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from adapterzoo.metrics.built_in import DEFAULT
from adapterzoo.quantizations.contract import NONE
from adapterzoo.recipe.data import DataSection, Split
from adapterzoo.recipe.train import TrainSection
from adapterzoo.recipe.tune import Range
from adapterzoo.recipe.values import (
    SAFE_NAME,
    Count,
    CountOrAuto,
    LearningRate,
    MaxMemory,
    Name,
    PositiveOrAuto,
    Section,
)
from adapterzoo.results.identity import DEFAULT_TASK

__all__ = [
    "SAFE_NAME",
    "SHIPPED",
    "BudgetSection",
    "DataSection",
    "EvaluateSection",
    "MethodEntry",
    "ModelSection",
    "Range",
    "Recipe",
    "Split",
    "TaskEntry",
    "TrainSection",
]


# The value of evaluate.general_text that names the text that comes with adapterzoo.
SHIPPED = "shipped"


class ModelSection(Section):
    """The base model, and how it is loaded."""

    name: str = Field(min_length=1, description="base model: a bundled name, a folder, or a hub id")
    revision: str | None = Field(None, description="branch, tag or commit of the hub id")
    quantization: str = Field(
        NONE, description="quantization of the base model's weights, like none, int8 or nf4; docs/quantizations.md"
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = Field(
        "auto",
        description="number format of the computation and of all weights that are not quantized; auto = bfloat16, or "
        "float32 on a processor without instructions for it, float16 on a GPU without",
    )
    double_quantization: bool = Field(True, description="nf4 and fp4 only: quantize the quantization constants too")
    attention: Literal["auto", "eager", "sdpa", "flash_attention_2", "flex_attention"] = Field(
        "auto", description="attention kernel; auto = the fastest for this device and this max_length"
    )
    tf32: bool = Field(
        False, description="GPUs only: multiply float32 matrices in TF32, faster and with 10 bits of precision"
    )
    device_map: Literal["auto", "balanced", "balanced_low_0", "sequential"] | None = Field(
        None,
        description="spread the model over all GPUs, then the memory of the CPU, then the disk, in this way of "
        "accelerate; docs/bigger-than-memory.md [all of it on one device]",
    )
    max_memory: MaxMemory | None = Field(
        None,
        description="with device_map: what weights may take of each GPU and of the CPU's memory, like "
        "{0: 20GB, cpu: 60GB} [what is free]",
    )
    offload_folder: str | None = Field(
        None,
        min_length=1,
        description="with device_map: folder for weights that cannot be read from the model's own files [none]",
    )
    padding_token: str | None = Field(
        None,
        min_length=1,
        description="padding token to add to the tokenizer and the embeddings [one that the tokenizer has]",
    )
    trust_remote_code: bool = Field(
        False, description="run code that comes with the model; set it only if you trust that code"
    )

    @model_validator(mode="after")
    def _only_with_device_map(self) -> ModelSection:
        for key in ("max_memory", "offload_folder"):
            if self.device_map is None and getattr(self, key) is not None:
                what = "is of no use without model.device_map. Set that too, for example to auto."
                raise PydanticCustomError("value", what, {"at": (key,)})
        return self


class EvaluateSection(Section):
    """The settings by which every cell is measured on the test split."""

    metrics: list[str] = Field(
        default_factory=lambda: [*DEFAULT, "loss", "perplexity"],
        min_length=1,
        description="names of the metrics; the table is ordered by the first",
    )
    batch_size: int = Field(
        32, ge=1, description="rows that are measured at once; fewer if many of their tokens are in the loss"
    )
    max_new_tokens: PositiveOrAuto = Field(
        "auto",
        description="largest number of tokens in a generated answer; auto = as in the longest answer of the test split",
    )
    base: bool = Field(True, description="also measure the untouched base model")
    shots: int = Field(
        4, ge=0, description="also measure the base model with this many examples in its prompt; 0 = do not"
    )
    general_text: str | None = Field(
        None, min_length=1, description="text on which forgetting is measured: shipped, or a file [not measured]"
    )


class BudgetSection(Section):
    """The number of trainable parameters that every method should have, as nearly as its options allow."""

    trainable_params: Count = Field(description="trainable parameters of every method, like 2500000 or 2.5M")


class MethodEntry(BaseModel):
    """One entry of ``methods``: a method, its label, and the options that differ from the defaults."""

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
        """Return the options of the method that the recipe sets."""
        return dict(self.model_extra or {})


class TaskEntry(BaseModel):
    """The task of a recipe, and its options that differ from the defaults."""

    model_config = ConfigDict(extra="allow", strict=True)

    name: str = Field(description="name of the task; docs/tasks.md lists them")

    @model_validator(mode="before")
    @classmethod
    def _from_name(cls, value: Any) -> Any:
        return {"name": value} if isinstance(value, str) else value

    @property
    def options(self) -> dict[str, Any]:
        """Return the options of the task that the recipe sets."""
        return dict(self.model_extra or {})


class Recipe(Section):
    """One recipe. Read it from a file with :func:`adapterzoo.load_recipe`."""

    name: Name = Field(description="name of the comparison; its results are in runs/NAME unless --out names a folder")
    task: TaskEntry = Field(
        default_factory=lambda: TaskEntry(name=DEFAULT_TASK),
        description="what is learned: the name of a task; or {name: NAME, OPTION: VALUE, ...} [supervised]",
    )
    model: ModelSection
    data: DataSection
    train: TrainSection = Field(default_factory=TrainSection)
    evaluate: EvaluateSection = Field(default_factory=EvaluateSection)
    budget: BudgetSection | None = Field(
        None, description="one size for all methods [each method has its default size]"
    )
    tune: dict[str, Range] = Field(
        default_factory=dict,
        description="learning_rate or options to tune on the validation rows, with equally many trials for each method",
    )
    methods: list[MethodEntry] = Field(
        min_length=1,
        description="names of methods; or {name: NAME, label: LABEL, learning_rate: RATE, OPTION: VALUE, ...}",
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        default_factory=lambda: [0], min_length=1, description="every method is trained once with each seed"
    )

    jobs: CountOrAuto = Field(
        "auto",
        description="cells that run at the same time, each in its own process; auto = one for each GPU, or, without "
        "a GPU, as many as processor and memory allow; 0 = one after the other in the main process, for a debugger",
    )
    threads: PositiveOrAuto = Field(
        "auto", description="threads of each cell; auto = the number that finishes most cells an hour, by a short test"
    )

    @model_validator(mode="after")
    def _trials(self) -> Recipe:
        numbers = sorted({option.trials for option in self.tune.values() if option.trials is not None})
        if len(numbers) > 1:
            given = ", ".join(map(str, numbers))
            raise PydanticCustomError(
                "value", "has different numbers of trials: {given}. Give one.", {"given": given, "at": ("tune",)}
            )
        return self

    @model_validator(mode="after")
    def _seeds(self) -> Recipe:
        if len(set(self.seeds)) < len(self.seeds):
            raise PydanticCustomError("value", "has the same seed twice.", {"at": ("seeds",)})
        return self

    def resolved(self) -> dict[str, Any]:
        """Return the recipe with all defaults filled in, as plain data that loads as the same recipe."""
        resolved = self.model_dump(mode="json", exclude_none=True)
        if not self.task.options:
            resolved["task"] = self.task.name
        return resolved
