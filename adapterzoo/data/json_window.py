"""Read the values of a JSON text that is too long for the memory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TextIO

from adapterzoo.data.text_files import MAX_ROW_CHARACTERS, not_utf8
from adapterzoo.errors import UserError
from adapterzoo.formats.cell_text import Number

WINDOW_CHARACTERS = 2**16
SPACES = " \t\n\r"
_SPACES = re.compile(f"[{SPACES}]*")


def reading(where: str) -> dict[str, Any]:
    """Return arguments for the functions of :mod:`json`: numbers stay as they are written, and keys are not repeated.

    Args:
        where: file and line, for messages.
    """

    def cells(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        by_key = dict(pairs)
        if len(by_key) < len(pairs):
            for key, value in pairs:
                if value != by_key[key]:
                    what = f"the key '{key}' is given twice, with different values."
                    raise UserError.at(where, what, "Keep one of them.")
        return by_key

    return {"parse_float": Number, "parse_int": Number, "object_pairs_hook": cells}


class JsonWindow:
    """A part of a long JSON text, from the place on that was read up to."""

    def __init__(self, file: TextIO, path: Path) -> None:
        self._file, self._path = file, path
        self._text, self._place, self._line = "", 0, 1

    def take(self, expected: str) -> str:
        """Return the next character but spaces, which must be one of some characters."""
        self._skip_spaces()
        while self._place == len(self._text) and self._extend():
            self._skip_spaces()
        found = self._text[self._place : self._place + 1]
        if not found or found not in expected:
            raise self._error(f"expecting {' or '.join(expected)}")
        self._place += 1
        return found

    def value(self, where: str) -> Any:
        """Return the next value."""
        decoder = json.JSONDecoder(**reading(where))
        while True:
            self._skip_spaces()
            try:
                value, self._place = decoder.raw_decode(self._text, self._place)
                return value
            except json.JSONDecodeError as error:
                what = f"is not JSON: {error.msg}."
            except RecursionError:
                raise UserError.at(where, "is not JSON: it is nested too deeply.") from None
            # Perhaps only its end has not been read yet.
            if len(self._text) - self._place > MAX_ROW_CHARACTERS:
                raise UserError.at(where, f"has more than {MAX_ROW_CHARACTERS:,} characters, or {what}")
            if not self._extend():
                raise UserError.at(where, what)

    def end(self) -> None:
        """Check that nothing but spaces follows."""
        self._skip_spaces()
        while self._place == len(self._text):
            if not self._extend():
                return
            self._skip_spaces()
        raise self._error("extra data")

    def _skip_spaces(self) -> None:
        found = _SPACES.match(self._text, self._place)
        assert found is not None  # no space matches too
        self._place = found.end()

    def _extend(self) -> bool:
        """Read on, twice as far each time until a value is complete; return whether there was more to read."""
        rest = self._text[self._place :]
        try:
            more = self._file.read(max(WINDOW_CHARACTERS, len(rest)))
        except UnicodeDecodeError as error:
            raise not_utf8(self._path, error) from None
        self._line += self._text.count("\n", 0, self._place)
        self._text, self._place = rest + more, 0
        return bool(more)

    def _error(self, what: str) -> UserError:
        line = self._line + self._text.count("\n", 0, self._place)
        return UserError.at(f"{self._path}:{line}", f"is not JSON: {what}.")
