"""Equal size: the value of each method's size option that comes nearest to a number of trained parameters."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

from pydantic import ValidationError

from adapterzoo.methods.contract import Method

# Values tried around one that a method cannot be built with, before giving up on that side.
AROUND = 64
LARGEST = 2**16
TOLERANCE = 0.05
Count = Callable[[Any], int | None]
"""the trained parameters with some options; None where a method cannot be built with them"""


def solve(method: Method[Any], options: Any, wanted: int, count: Count, likely: Collection[int] = ()) -> Any:
    """The options with the size that comes nearest to ``wanted`` parameters; as they are where none can be found.

    Args:
        method: with its size option.
        options: to start from.
        wanted: trained parameters.
        count: how many some options come to.
        likely: sizes that are tried wherever they lie between two that are looked at: the divisors of the layers.

    Parameters may grow with the size (a rank) or shrink with it (the side of circulant blocks). Sizes that a method
    cannot be built with (a block that divides no layer) are stepped over.
    """
    if method.size_option is None:
        return options
    sizes = _Sizes(method, options, count, likely)
    start = getattr(options, method.size_option)
    if not isinstance(start, int) or (start := sizes.near(start, 1, LARGEST)) is None:
        return options
    sizes.narrow(start, wanted)
    known = {size: found for size, found in sizes.seen.items() if found is not None}
    if len(set(known.values())) == 1:
        return sizes.options(start)  # its size changes nothing here
    # The smaller one of two that are as near.
    return sizes.options(sizes.smallest(min(sorted(known), key=lambda size: abs(known[size] - wanted))))


def misses(trained: int, wanted: int | None) -> bool:
    """Whether a size is not the one that was asked for, by more than a twentieth."""
    return wanted is not None and abs(trained - wanted) > TOLERANCE * wanted


class _Sizes:
    """What each size of a method comes to, asked once."""

    def __init__(self, method: Method[Any], options: Any, count: Count, likely: Collection[int]) -> None:
        self.method, self.start, self._count, self.likely = method, options, count, likely
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
        likely = sorted((one for one in self.likely if low <= one <= high), key=lambda one: abs(one - size))
        around = dict.fromkeys((*_around(size, low, high), *likely))
        return next((one for one in around if self.count(one) is not None), None)

    def narrow(self, start: int, wanted: int) -> None:
        """Look at sizes on both sides of the wanted number, ever nearer to it."""
        grows = self._grows(start)
        here, more = start, (self.count(start) or 0) <= wanted
        while True:
            there = self._step(here, up=more == grows)
            if there is None:
                return
            if ((self.count(there) or 0) <= wanted) != more:
                break
            here = there
        low, high = sorted((here, there))
        while (middle := self.near((low + high) // 2, low + 1, high - 1)) is not None:
            low, high = (middle, high) if ((self.count(middle) or 0) <= wanted) == grows else (low, middle)

    def smallest(self, size: int) -> int:
        """The smallest size with as many parameters: beyond a point, more size may be no more of them."""
        wanted = self.count(size)
        below = max((one for one, found in self.seen.items() if one < size and found != wanted), default=0)
        while (middle := self.near((below + size) // 2, below + 1, size - 1)) is not None:
            below, size = (below, middle) if self.count(middle) == wanted else (middle, size)
        return size

    def _grows(self, start: int) -> bool:
        """Whether more size is more parameters."""
        here = self.count(start) or 0
        if (above := self._step(start, up=True)) is not None and self.count(above) != here:
            return (self.count(above) or 0) > here
        below = self._step(start, up=False)
        return below is None or (self.count(below) or 0) <= here

    def _step(self, size: int, *, up: bool) -> int | None:
        """A possible size of about twice as much, or half."""
        return self.near(min(2 * size, LARGEST), size + 1, LARGEST) if up else self.near(size // 2, 1, size - 1)


def divisors(widths: Collection[int]) -> set[int]:
    """Of all of some numbers."""
    common = math.gcd(*widths)
    return {size for size in range(1, common + 1) if common % size == 0}


def _around(size: int, low: int, high: int) -> Iterator[int]:
    """Sizes from the nearest on: 8, 7, 9, 6, 10, ..."""
    for away in range(AROUND):
        for one in dict.fromkeys((size - away, size + away)):
            if low <= one <= high:
                yield one
