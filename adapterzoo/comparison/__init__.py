"""The comparison of finished results: which rows can be compared, how they differ, and which are tied."""

from __future__ import annotations

from adapterzoo.comparison.compare import compare
from adapterzoo.comparison.comparison import Comparison

__all__ = ["Comparison", "compare"]
