"""The ``data`` section: the examples, and which part each is in."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from adapterzoo.errors import did_you_mean
from adapterzoo.formats import FORMATS
from adapterzoo.recipe.values import Part, Scalar, Section, Source


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
        min_length=1,
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
