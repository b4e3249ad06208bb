"""The format of Stanford's Alpaca data: an instruction, an input that may be empty, and an output."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapterzoo.data_row import Turn
from adapterzoo.formats._format import Format
from adapterzoo.formats.cell_text import text_of


class Alpaca(Format):
    """The Alpaca format. The input of a row, if it has one, is written below the instruction."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the instruction with its input, and the output."""
        question = self.text(cells, "instruction")
        if context := text_of(cells.get("input"), "input").strip():
            question = f"{question}\n\n{context}"
        return [Turn("user", question), Turn("assistant", self.text(cells, "output"))]


FORMAT = Alpaca("an instruction, perhaps an input, and an output", ("instruction", "output"), ("input",), "output")
