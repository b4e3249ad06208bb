"""The recipe: what one comparison trains, on what, and how it is measured. Its keys, their types and limits."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from adapterzoo.recipe.data import DataSection, Split
from adapterzoo.recipe.train import TrainSection
from adapterzoo.recipe.tune import Range
from adapterzoo.recipe.values import (
    SAFE_NAME,
    Count,
    CountOrAuto,
    LearningRate,
    Name,
    PositiveOrAuto,
    Section,
)

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
    "TrainSection",
]


# The general text that comes with adapterzoo.
SHIPPED = "shipped"


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


class EvaluateSection(Section):
    """The measurement that every row gets, on the test split."""

    metrics: list[str] = Field(
        default_factory=lambda: ["exact_match", "loss", "perplexity"],
        min_length=1,
        description="by name, the first decides the order of the table; plain text has no answers to compare",
    )
    batch_size: int = Field(32, ge=1, description="rows measured at once; fewer where many tokens are in the loss")
    max_new_tokens: PositiveOrAuto = Field("auto", description="auto = the longest answer of the test split")
    base: bool = Field(True, description="measure the untouched base model too")
    shots: int = Field(4, ge=0, description="and once more with this many examples in the prompt; 0 = not")
    general_text: str | None = Field(
        None, min_length=1, description="text on which forgetting is measured: shipped, or a file; else it is not"
    )


class BudgetSection(Section):
    """The same size for every method, as near as each comes to it."""

    trainable_params: Count = Field(
        description="like 2500000 or 2.5M: solved for by the option that sets a method's size"
    )


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
    budget: BudgetSection | None = Field(None, description="equal size: left out, each method has its own")
    tune: dict[str, Range] = Field(
        default_factory=dict,
        description="learning_rate or other options: tried on the validation rows, each method as often",
    )
    methods: list[MethodEntry] = Field(
        min_length=1,
        description="names; or {name: NAME, label: LABEL, learning_rate: RATE} with the method's options beside",
    )
    seeds: list[Annotated[int, Field(ge=0, lt=2**32)]] = Field(
        default_factory=lambda: [0], min_length=1, description="each method is trained with each"
    )

    jobs: CountOrAuto = Field(
        "auto",
        description="cells at a time, each in a process of its own; auto = as many as processor and memory are good "
        "for; 0 = one after the other in this process, for debuggers",
    )
    threads: PositiveOrAuto = Field(
        "auto", description="threads of each cell; auto = as many as give the most cells an hour, by a short probe"
    )

    @model_validator(mode="after")
    def _trials(self) -> Recipe:
        given = sorted({one.trials for one in self.tune.values() if one.trials is not None})
        if len(given) > 1:
            many = ", ".join(map(str, given))
            raise PydanticCustomError(
                "value", "asks for {many} trials: each method gets one number.", {"many": many, "at": ("tune",)}
            )
        return self

    @model_validator(mode="after")
    def _seeds(self) -> Recipe:
        if len(set(self.seeds)) < len(self.seeds):
            raise PydanticCustomError("value", "has the same seed twice.", {"at": ("seeds",)})
        return self

    def resolved(self) -> dict[str, Any]:
        """The recipe with every default spelled out, as plain data that reads back as the same recipe."""
        return self.model_dump(mode="json", exclude_none=True)
