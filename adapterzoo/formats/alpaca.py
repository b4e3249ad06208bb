"""Instruction, an input that may be empty, and output: the shape of Stanford's Alpaca data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapterzoo.formats._format import Format
from adapterzoo.formats.cell_text import text_of
from adapterzoo.row import Turn


class Alpaca(Format):
    """The input, where there is one, stands below the instruction."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """An instruction with its input, and the output."""
        asked = self.text(cells, "instruction")
        if given := text_of(cells.get("input"), "input").strip():
            asked = f"{asked}\n\n{given}"
        return [Turn("user", asked), Turn("assistant", self.text(cells, "output"))]


FORMAT = Alpaca("an instruction, perhaps an input, and an output", ("instruction", "output"), ("input",), "output")
