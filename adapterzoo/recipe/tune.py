"""The ``tune`` section: what is tried for each method, and from where to where."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from adapterzoo.recipe.values import Scalar, Section

TRIALS = 5


class Range(Section):
    """The values that an option is tried with."""

    low: int | float | None = Field(None, description="the lowest")
    high: int | float | None = Field(None, description="and the highest; whole numbers where both are")
    values: list[Scalar] | None = Field(None, min_length=1, description="or these and no others")
    trials: int | None = Field(None, ge=1, le=1000, description=f"settings that each method is tried with [{TRIALS}]")

    @model_validator(mode="after")
    def _either(self) -> Range:
        ends = (self.low, self.high)
        if (self.values is None) == (ends == (None, None)) or (self.values is None and None in ends):
            raise PydanticCustomError("value", "takes low and high, or values.")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise PydanticCustomError("value", "has a low end that is not below the high one.")
        if self.values is not None and len(set(map(repr, self.values))) < len(self.values):
            raise PydanticCustomError("value", "has the same value twice.")
        return self

    @property
    def tried(self) -> list[Any]:
        """Values that every other one lies between, or is one of."""
        return self.values if self.values is not None else [self.low, self.high]

    def at(self, share: float) -> Any:
        """The value so far along: evenly, or by factors where the range spans ten of them."""
        if self.values is not None:
            return self.values[int(share * len(self.values))]
        low, high = self.low or 0, self.high or 0
        if isinstance(low, int) and isinstance(high, int):
            return low + int(share * (high - low + 1))
        value = low * (high / low) ** share if low > 0 and high / low >= 10 else low + share * (high - low)
        return min(max(float(f"{value:.3g}"), low), high)

    def holds(self, value: Any) -> bool:
        """Whether a value is one that may be tried."""
        if self.values is not None:
            return value in self.values
        return isinstance(value, (int, float)) and (self.low or 0) <= value <= (self.high or 0)


def trials(tune: dict[str, Range]) -> int:
    """How many settings each method is tried with; as the section was checked, the ranges agree."""
    return next((one.trials for one in tune.values() if one.trials is not None), TRIALS)
