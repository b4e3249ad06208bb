"""Make adapters equally large: find the value of a method's size option that comes nearest to a parameter budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from typing import Any

from pydantic import ValidationError

from adapterzoo.methods.contract import Method

MAX_DISTANCE = 64  # if a method cannot be built with a size, sizes closer to it than this are tried instead
MAX_SIZE = 2**16
TOLERANCE = 0.05  # as a share of the budget
Count = Callable[[Any], int | None]
"""returns the number of parameters that a method trains with these options; None if it cannot be built with them"""


def solve(method: Method[Any], options: Any, wanted: int, count: Count, extra_sizes: Collection[int] = ()) -> Any:
    """Return the options with the size that comes nearest to a budget, or unchanged if no size can be found.

    The number of parameters may grow with the size (a rank) or shrink with it (the side of circulant blocks). Sizes
    that a method cannot be built with (a block size that divides no layer's width) are skipped.

    Args:
        method: the method, which names its size option.
        options: the options to start from.
        wanted: the budget, a number of trained parameters.
        count: returns the number of parameters that the method trains with its options.
        extra_sizes: sizes that are tried as well, however far they are from the others: divisors of the layers' widths.
    """
    if method.size_option is None:
        return options
    sizes = _Sizes(method, options, count, extra_sizes)
    start = getattr(options, method.size_option)
    if not isinstance(start, int) or (start := sizes.near(start, 1, MAX_SIZE)) is None:
        return options
    sizes.narrow(start, wanted)
    known = {size: parameters for size, parameters in sizes.seen.items() if parameters is not None}
    if len(set(known.values())) == 1:
        return sizes.options(start)  # the size has no effect on this model
    # If two sizes are equally near, take the smaller one.
    return sizes.options(sizes.smallest(min(sorted(known), key=lambda size: abs(known[size] - wanted))))


def misses(trained: int, wanted: int | None) -> bool:
    """Tell whether a number of parameters is further from the budget than TOLERANCE."""
    return wanted is not None and abs(trained - wanted) > TOLERANCE * wanted


class _Sizes:
    """The number of parameters that a method trains with each size; each size is counted only once."""

    def __init__(self, method: Method[Any], options: Any, count: Count, extra_sizes: Collection[int]) -> None:
        self.method, self.start, self._count, self.extra_sizes = method, options, count, extra_sizes
        self.seen: dict[int, int | None] = {}
        """size -> number of parameters; None if the method cannot be built with the size"""

    def options(self, size: int) -> Any:
        """Return the options with another size, checked like those of a recipe."""
        changes = self.method.resized(self.start, size)
        return self.method.options(**{**self.start.model_dump(mode="json"), **changes})

    def count(self, size: int) -> int | None:
        """Return the number of parameters with a size; None if the method cannot be built with it."""
        if size not in self.seen:
            try:
                self.seen[size] = self._count(self.options(size))
            except ValidationError:
                self.seen[size] = None
        return self.seen[size]

    def near(self, size: int, low: int, high: int) -> int | None:
        """Return the possible size nearest to ``size``, from ``low`` to ``high``; None if no size is possible."""
        extra = [candidate for candidate in self.extra_sizes if low <= candidate <= high]
        extra.sort(key=lambda candidate: abs(candidate - size))
        candidates = dict.fromkeys((*_around(size, low, high), *extra))
        return next((candidate for candidate in candidates if self.count(candidate) is not None), None)

    def narrow(self, start: int, wanted: int) -> None:
        """Count the parameters with sizes that come closer and closer to the wanted number, from above and below."""
        grows = self._grows(start)
        size, too_small = start, (self.count(start) or 0) <= wanted
        while True:
            next_size = self._step(size, up=too_small == grows)
            if next_size is None:
                return
            if ((self.count(next_size) or 0) <= wanted) != too_small:
                break
            size = next_size
        low, high = sorted((size, next_size))
        while (middle := self.near((low + high) // 2, low + 1, high - 1)) is not None:
            low, high = (middle, high) if ((self.count(middle) or 0) <= wanted) == grows else (low, middle)

    def smallest(self, size: int) -> int:
        """Return the smallest size with as many parameters as ``size``, because larger sizes may add none."""
        wanted = self.count(size)
        below = max((seen for seen, count in self.seen.items() if seen < size and count != wanted), default=0)
        while (middle := self.near((below + size) // 2, below + 1, size - 1)) is not None:
            below, size = (below, middle) if self.count(middle) == wanted else (middle, size)
        return size

    def _grows(self, start: int) -> bool:
        """Tell whether a larger size has more parameters."""
        count = self.count(start) or 0
        if (above := self._step(start, up=True)) is not None and self.count(above) != count:
            return (self.count(above) or 0) > count
        below = self._step(start, up=False)
        return below is None or (self.count(below) or 0) <= count

    def _step(self, size: int, *, up: bool) -> int | None:
        """Return a possible size about twice as large, or half as large if not ``up``; None if there is none."""
        return self.near(min(2 * size, MAX_SIZE), size + 1, MAX_SIZE) if up else self.near(size // 2, 1, size - 1)


def divisors(widths: Collection[int]) -> set[int]:
    """Return the numbers that divide all of the widths."""
    common = math.gcd(*widths)
    return {size for size in range(1, common + 1) if common % size == 0}


def _around(size: int, low: int, high: int) -> Iterator[int]:
    """Yield sizes from ``low`` to ``high``, the nearest first: 8, 7, 9, 6, 10, ..."""
    for distance in range(MAX_DISTANCE):
        for neighbour in dict.fromkeys((size - distance, size + distance)):
            if low <= neighbour <= high:
                yield neighbour
