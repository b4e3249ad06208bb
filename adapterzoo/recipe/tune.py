"""The ``tune`` section of a recipe: which values of an option are tried for each method."""

from __future__ import annotations

from typing import Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from adapterzoo.recipe.values import Scalar, Section

DEFAULT_TRIALS = 5


class Range(Section):
    """The values of one option that tuning may try: all between two ends, or a list."""

    low: int | float | None = Field(None, description="lowest value")
    high: int | float | None = Field(
        None, description="highest value; if both are whole numbers, only whole numbers are tried"
    )
    values: list[Scalar] | None = Field(
        None, min_length=1, description="the only values to try, in place of low and high"
    )
    trials: int | None = Field(
        None, ge=1, le=1000, description=f"number of settings to try for each method [{DEFAULT_TRIALS}]"
    )

    @model_validator(mode="after")
    def _either(self) -> Range:
        ends = (self.low, self.high)
        if (self.values is None) == (ends == (None, None)) or (self.values is None and None in ends):
            raise PydanticCustomError("value", "needs low and high, or values.")
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise PydanticCustomError("value", "has a low that is not below high.")
        if self.values is not None and len(set(map(repr, self.values))) < len(self.values):
            raise PydanticCustomError("value", "has the same value twice.")
        return self

    @property
    def values_to_check(self) -> list[Any]:
        """Return all values of a list, or else the lowest and the highest value."""
        return self.values if self.values is not None else [self.low, self.high]

    def at(self, share: float) -> Any:
        """Return the value at a share (0 to 1) of the range, on a log scale if high is 10 times low or more."""
        if self.values is not None:
            return self.values[int(share * len(self.values))]
        low, high = self.low or 0, self.high or 0
        if isinstance(low, int) and isinstance(high, int):
            return low + int(share * (high - low + 1))
        value = low * (high / low) ** share if low > 0 and high / low >= 10 else low + share * (high - low)
        return min(max(float(f"{value:.3g}"), low), high)

    def holds(self, value: Any) -> bool:
        """Tell whether a value is one of the list, or between the ends."""
        if self.values is not None:
            return value in self.values
        return isinstance(value, (int, float)) and (self.low or 0) <= value <= (self.high or 0)


def trials(tune: dict[str, Range]) -> int:
    """Return the number of settings to try for each method; a recipe with two different numbers is refused."""
    return next((option.trials for option in tune.values() if option.trials is not None), DEFAULT_TRIALS)
