"""Equal size: the value of each method's size option that comes nearest to a number of trained parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import ValidationError

from adapterzoo.method import Method

# Values tried around one that a method cannot be built with, before giving up on that side.
AROUND = 64
LARGEST = 2**16
TOLERANCE = 0.05
Count = Callable[[Any], int | None]
"""the trained parameters with some options; None where a method cannot be built with them"""


def solve(method: Method[Any], options: Any, wanted: int, count: Count) -> Any:
    """The options with the size that comes nearest to ``wanted`` parameters; as they are where none can be found.

    More size is taken to mean more parameters, which is so for every size option of the zoo: the conformance kit
    looks at it. Sizes that a method cannot be built with (a block that divides no layer) are stepped over.
    """
    if method.size_option is None:
        return options
    sizes = _Sizes(method, options, count)
    start = getattr(options, method.size_option)
    if not isinstance(start, int) or (start := sizes.near(start, 1, LARGEST)) is None:
        return options
    # From the size that would do if parameters were proportional to it.
    below, above = sizes.bracket(start, wanted)
    while below and above and above - below > 1:
        middle = sizes.between(below, above)
        if middle is None:
            break
        below, above = (middle, above) if (sizes.count(middle) or 0) <= wanted else (below, middle)
    known = {size: found for size, found in sizes.seen.items() if found is not None}
    if len(set(known.values())) == 1:
        return sizes.options(start)  # its size changes nothing here
    return sizes.options(sizes.smallest(min(sorted(known), key=lambda size: abs(known[size] - wanted))))


def misses(trained: int, wanted: int | None) -> bool:
    """Whether a size is not the one that was asked for, by more than a twentieth."""
    return wanted is not None and abs(trained - wanted) > TOLERANCE * wanted


class _Sizes:
    """What each size of a method comes to, asked once."""

    def __init__(self, method: Method[Any], options: Any, count: Count) -> None:
        self.method, self.start, self._count = method, options, count
        self.seen: dict[int, int | None] = {}

    def options(self, size: int) -> Any:
        """The options with another size, checked as those of a recipe are."""
        changes = self.method.resized(self.start, size)
        return self.method.options(**{**self.start.model_dump(mode="json"), **changes})

    def count(self, size: int) -> int | None:
        """The trained parameters with a size."""
        if size not in self.seen:
            try:
                self.seen[size] = self._count(self.options(size))
            except ValidationError:
                self.seen[size] = None
        return self.seen[size]

    def near(self, size: int, low: int, high: int) -> int | None:
        """The nearest possible size from ``low`` to ``high``."""
        return next((one for one in _around(size, low, high) if self.count(one) is not None), None)

    def between(self, below: int, above: int) -> int | None:
        """A possible size between two others."""
        return self.near((below + above) // 2, below + 1, above - 1)

    def smallest(self, size: int) -> int:
        """The smallest size with as many parameters: beyond a point, more size may be no more of them."""
        wanted = self.count(size)
        below = max((one for one, found in self.seen.items() if one < size and found != wanted), default=0)
        while (middle := self.between(below, size)) is not None:
            below, size = (below, middle) if self.count(middle) == wanted else (middle, size)
        return size

    def bracket(self, start: int, wanted: int) -> tuple[int | None, int | None]:
        """A size with no more parameters than are wanted, and one with more; None where there is none."""
        here = start
        found = self.count(here) or 0
        guess = min(LARGEST, max(1, round(start * wanted / max(found, 1))))
        if (jump := self.near(guess, 1, LARGEST)) is not None:
            here, found = jump, self.count(jump) or 0
        other: int | None = here
        if found <= wanted:
            while other is not None and (self.count(other) or 0) <= wanted:
                here = other
                other = self.near(min(2 * here, LARGEST), here + 1, LARGEST)
            return here, other
        while other is not None and (self.count(other) or 0) > wanted:
            here = other
            other = self.near(max(here // 2, 1), 1, here - 1)
        return other, here


def _around(size: int, low: int, high: int) -> Iterator[int]:
    """Sizes from the nearest on: 8, 7, 9, 6, 10, ..."""
    for away in range(AROUND):
        for one in dict.fromkeys((size - away, size + away)):
            if low <= one <= high:
                yield one
