"""Plain text: all of it is learned, nothing is asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from adapterzoo.formats._format import Format
from adapterzoo.formats.cell_text import text_of
from adapterzoo.row import EmptyRowError, Turn


class PlainText(Format):
    """Text as it is: leading spaces and line ends may mean something."""

    def turns(self, cells: Mapping[str, Any]) -> Sequence[Turn]:
        """The text, as the one thing that is said."""
        text = text_of(cells.get("text"), "text")
        if not text.strip():
            raise EmptyRowError("text")
        return [Turn("assistant", text)]


FORMAT = PlainText("text as it is", ("text",))
