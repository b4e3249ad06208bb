"""The ``data`` section of a recipe: where the examples come from and how they are split."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from adapterzoo.formats import FORMATS
from adapterzoo.recipe.values import Scalar, Section, Source, SplitPart


class Split(Section):
    """The training, validation and test split. A row's split depends only on its content and the seed."""

    train: SplitPart = Field(0.8, description="share of the rows; or files; or the name of a split of the source")
    validation: SplitPart = Field(0.1, description="like train; 0 = no validation rows")
    test: SplitPart = Field(0.1, description="like train")
    seed: int = Field(0, description="seed of the split: another seed puts other rows in each split")
    group_by: str | None = Field(
        None, description="column: rows with the same value in it stay in one split [the prompt]"
    )
    duplicates: Literal["error", "drop", "keep"] = Field(
        "error",
        description="what to do with training rows that are in validation or test too; drop = do not train on them",
    )

    @model_validator(mode="after")
    def _sum(self) -> Split:
        shares = [part for part in (self.train, self.validation, self.test) if isinstance(part, float)]
        if sum(shares) > 1 + 1e-9 and isinstance(self.train, float):
            raise PydanticCustomError(
                "value", "has shares that add up to more than 1 (validation is 0.1 if it is not given)."
            )
        for name in ("train", "test"):
            if getattr(self, name) == 0:
                raise PydanticCustomError(
                    "value", "must be above 0: a run needs {part} rows.", {"part": name, "at": (name,)}
                )
        return self


class DataSection(Section):
    """The source of the examples, and the settings by which they are read, split and shortened."""

    source: Source | None = Field(
        None, description="files (csv, tsv, json, jsonl, parquet, arrow), the folder of a saved dataset, or a hub id; "
        "a path is looked for in the recipe's folder, then in the current folder"
    )  # fmt: skip
    config: str | None = Field(None, description="configuration of the hub dataset")
    revision: str | None = Field(None, description="branch, tag or commit of the hub dataset")
    delimiter: str | None = Field(
        None, min_length=1, max_length=1, description="character between the columns of a CSV file"
    )
    format: str = Field(
        "auto",
        description="kind of example; auto = recognised from the columns; the task supervised has: "
        f"{', '.join(FORMATS)}",
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="the format's name of a column -> the name in your data"
    )
    template: str | None = Field(
        None,
        min_length=1,
        description="text with {column} for a value: the question, or the whole example if it has the answer's column",
    )
    system: str | None = Field(None, description="system message for every example that has none")
    chat_template: str = Field(
        "auto",
        description="auto = the model's own, or plain if it has none; plain = no template; or a Jinja template file",
    )
    loss_on: Literal["completion", "assistant", "all"] = Field(
        "completion", description="tokens that are learned: the last answer; every answer of a conversation; or all"
    )
    filter: dict[str, Scalar | list[Scalar]] = Field(
        default_factory=dict, description="column -> value or values: only rows with these are used"
    )
    drop_columns: list[str] = Field(default_factory=list, description="columns that are ignored")
    bad_rows: Literal["error", "drop"] = Field(
        "error", description="what to do with rows that do not fit the format; drop = leave them out"
    )
    shuffle: int | None = Field(None, ge=0, description="seed: shuffle the rows before limit takes the first")
    limit: int | None = Field(None, ge=1, description="number of rows to use: the first ones that are usable")
    split: Split = Field(default_factory=Split)
    max_length: int = Field(512, ge=2, description="largest number of tokens in an example")
    truncate: Literal["prompt", "completion", "drop"] = Field(
        "prompt", description="which part of an example that is too long is cut; drop = leave the example out"
    )
    packing: bool = Field(False, description="put several training examples into one row of max_length tokens")

    @model_validator(mode="after")
    def _consistent(self) -> DataSection:
        if self.source is None and not isinstance(self.split.train, (str, list)):
            raise PydanticCustomError("value", "is missing.", {"at": ("source",)})
        return self

    @property
    def sources(self) -> list[str]:
        """Return the source as a list: its files, or its one hub id."""
        return [self.source] if isinstance(self.source, str) else list(self.source or [])
