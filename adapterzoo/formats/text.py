"""The format of plain text: all of it is learned, and there is no question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapterzoo.data_row import EmptyRowError, Turn
from adapterzoo.formats._format import Format
from adapterzoo.formats.cell_text import text_of


class PlainText(Format):
    """The format of plain text, which is not stripped: spaces and line ends around it may have a meaning."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """Return the text as a single turn of the assistant."""
        text = text_of(cells.get("text"), "text")
        if not text.strip():
            raise EmptyRowError("text")
        return [Turn("assistant", text)]


FORMAT = PlainText("text as it is", ("text",))
