"""Look at the columns of a data file: what their names mean and what their cells look like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from adapterzoo.data_row import BadRowError
from adapterzoo.formats import FORMATS, Conversation
from adapterzoo.formats.cell_text import text_of

# Usual names of the columns with questions and with answers: first the names that are clear, then those that often fit.
QUESTION_NAMES = (
    {"question", "prompt", "instruction", "query", "input", "frage", "pregunta"},
    {"text", "dialogue", "document", "article", "passage", "content", "body", "message", "sentence"},
)
ANSWER_NAMES = (
    {"answer", "completion", "response", "output", "reply", "result", "target", "antwort", "réponse", "respuesta"},
    {"label", "class", "category", "summary", "sentiment", "intent", "translation", "kategorie", "klasse", "etiqueta"},
)
IDENTIFIER_NAMES = {"id", "ids", "idx", "index", "uuid", "guid", "key", "hash", "nr", "unnamed", ""}
# The cells of such columns look like labels, but name the split of a row.
SPLIT_COLUMN_NAMES = {"split", "fold", "subset", "partition"}
# A whole number, a UUID, a hash, or a numbered code such as INC-00123.
IDENTIFIER = re.compile(r"\d+|[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}|[\da-f]{16,}|[a-z]{1,10}[-_]\d+", re.IGNORECASE)
LINK = re.compile(r"https?://\S+")
NUMBERING = "all different, like identifiers"
# The values of a column look like labels if they are within these limits.
MAX_LABELS, MIN_ROWS_PER_LABEL = 20, 5
MAX_LABEL_CHARACTERS, MAX_LABEL_WORDS = 40, 4
MAX_SHOWN = 8  # Further names and labels are only counted.


class DataColumn:
    """A column of the data: its name, and its cells in the rows that are looked at."""

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.name = name
        self.cells = [row.get(name) for row in rows]
        self.texts = [text for text in map(text_in, self.cells) if text]
        # The words of the name in lower case, up to a bracket or colon: "FinalAnswer (en)" becomes "final answer".
        spaced = re.sub(r"(?<=[a-z\d])(?=[A-Z])", " ", re.split(r"[(\[{:]", name)[0])
        self.plain_name = " ".join(re.findall(r"[^\W_]+", spaced.lower()))

    @cached_property
    def identifier(self) -> str:
        """Return why the cells seem to be identifiers of rows; an empty text if they do not."""
        if _named_identifier(self):
            return "named like an identifier" if self.name.strip() else "no name"
        all_different = len(self.texts) > 2 and len(set(self.texts)) == len(self.texts)
        if all_different and not is_known(self) and all(map(IDENTIFIER.fullmatch, self.texts)):
            return NUMBERING
        return "links" if self.texts and all(map(LINK.fullmatch, self.texts)) else ""

    @cached_property
    def labels(self) -> list[str]:
        """Return the different values if they look like labels; else an empty list."""
        return [] if self.plain_name in SPLIT_COLUMN_NAMES else labels_in(self.texts)

    @property
    def length(self) -> float:
        """Return the average number of characters of a text."""
        return sum(map(len, self.texts)) / max(1, len(self.texts))

    @property
    def has_words(self) -> bool:
        """Tell whether any text has a letter in it."""
        return any(char.isalpha() for text in self.texts for char in text)

    @cached_property
    def conversation(self) -> str | None:
        """Return the format of the conversations in the cells; None if there are none."""
        first = next((cell[0] for cell in self.cells if isinstance(cell, list) and cell), None)
        keys = set(first) if isinstance(first, dict) else set()
        formats = {name: format for name, format in FORMATS.items() if isinstance(format, Conversation)}
        return next((name for name, format in formats.items() if {format.role, format.content} <= keys), None)

    @property
    def no_text(self) -> bool:
        """Tell whether the cells are lists or objects, and none is text."""
        return not self.texts and any(isinstance(cell, (list, dict)) for cell in self.cells)


def columns_of(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[DataColumn]:
    """Return the columns of a table by their names, with the cells of the given rows."""
    columns = [DataColumn(name, rows) for name in names]
    by_name = {column.plain_name: column for column in columns}
    if {"q", "a"} <= set(by_name):  # A column named q or a alone may mean something else.
        by_name["q"].plain_name, by_name["a"].plain_name = "question", "answer"
    return columns


def _named_identifier(column: DataColumn) -> bool:
    return column.plain_name.rpartition(" ")[2] in IDENTIFIER_NAMES


def is_known(column: DataColumn) -> bool:
    """Tell whether a column has one of the usual names, which show what the column is for."""
    return column.plain_name in set().union(*QUESTION_NAMES, *ANSWER_NAMES, IDENTIFIER_NAMES - {""})


def labels_in(texts: Sequence[str]) -> list[str]:
    """Return the different texts if they look like labels (few, short, repeated); else an empty list."""
    different = sorted(set(texts))
    few = 2 <= len(different) <= MAX_LABELS and len(texts) >= MIN_ROWS_PER_LABEL * len(different)
    short = all(len(text) <= MAX_LABEL_CHARACTERS and len(text.split()) <= MAX_LABEL_WORDS for text in different)
    return different if few and short else []


def brief(text: str) -> str:
    """Return a text on one line, in quotes, and cut after 57 characters if it is long."""
    line = " ".join(text.split())
    return f"'{line}'" if len(line) <= 60 else f"'{line[:57]}...'"


def listed(texts: Sequence[str]) -> str:
    """Return the first texts in quotes, and how many more there are."""
    more = [f"{len(texts) - MAX_SHOWN} more"] if len(texts) > MAX_SHOWN else []
    return ", ".join([*map(brief, texts[:MAX_SHOWN]), *more])


def rank(column: DataColumn, names: Sequence[set[str]]) -> int:
    """Return how well a column's name fits groups of names: 1 is best, higher numbers are worse, 0 is no fit."""
    last = column.plain_name.rpartition(" ")[2]
    matches = [word in group for word in (column.plain_name, last, last.removesuffix("s")) for group in names]
    return matches.index(True) + 1 if any(matches) else 0


def text_in(cell: object) -> str:
    """Return the text of a cell; an empty text if a model cannot learn from the cell."""
    try:
        return text_of(cell, "").strip()
    except BadRowError:
        return ""
