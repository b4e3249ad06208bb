"""Look at the columns of a data file: what their names say, and what their cells look like."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

from adapterzoo.formats import FORMATS, Conversation
from adapterzoo.formats.cell_text import text_of
from adapterzoo.row import BadRowError

# People call the two sides so. The names of the first group say it outright, those of the second usually.
QUESTION_NAMES = (
    {"question", "prompt", "instruction", "query", "input", "frage", "pregunta"},
    {"text", "dialogue", "document", "article", "passage", "content", "body", "message", "sentence"},
)
ANSWER_NAMES = (
    {"answer", "completion", "response", "output", "reply", "result", "target", "antwort", "réponse", "respuesta"},
    {"label", "class", "category", "summary", "sentiment", "intent", "translation", "kategorie", "klasse", "etiqueta"},
)
IDENTIFIER_NAMES = {"id", "ids", "idx", "index", "uuid", "guid", "key", "hash", "nr", "unnamed", ""}
PART_NAMES = {"split", "fold", "subset", "partition"}  # what is in them is short, repeated, and no answer
# Whole numbers, UUIDs, hashes, and numbered codes such as INC-00123.
IDENTIFIER = re.compile(r"\d+|[\da-f]{8}(-[\da-f]{4}){3}-[\da-f]{12}|[\da-f]{16,}|[a-z]{1,10}[-_]\d+", re.IGNORECASE)
LINK = re.compile(r"https?://\S+")
NUMBERING = "all different, like identifiers"
MAX_LABELS, MIN_ROWS_PER_LABEL = 20, 5
MAX_LABEL_CHARACTERS, MAX_LABEL_WORDS = 40, 4
MAX_SHOWN = 8  # further names and labels are only counted


class Column:
    """A column of the data: its name, and its cells in the rows that were looked at."""

    def __init__(self, name: str, rows: Sequence[Mapping[str, Any]]) -> None:
        self.name = name
        self.cells = [row.get(name) for row in rows]
        self.texts = [text for text in map(text_in, self.cells) if text]
        # In lower case and without what follows a bracket or a colon, so that "FinalAnswer (en)" is "final answer".
        spaced = re.sub(r"(?<=[a-z\d])(?=[A-Z])", " ", re.split(r"[(\[{:]", name)[0])
        self.says = " ".join(re.findall(r"[^\W_]+", spaced.lower()))

    @cached_property
    def identifier(self) -> str:
        """The reason to take its cells for names of rows; empty where there is none."""
        if _named_identifier(self):
            return "named like an identifier" if self.name.strip() else "without a name"
        different = len(self.texts) > 2 and len(set(self.texts)) == len(self.texts)
        if different and not is_known(self) and all(map(IDENTIFIER.fullmatch, self.texts)):
            return NUMBERING
        return "links" if self.texts and all(map(LINK.fullmatch, self.texts)) else ""

    @cached_property
    def labels(self) -> list[str]:
        """Its different values where they look like labels; else none."""
        return [] if self.says in PART_NAMES else labels_in(self.texts)

    @property
    def length(self) -> float:
        """Characters of a text, on average."""
        return sum(map(len, self.texts)) / max(1, len(self.texts))

    @property
    def has_words(self) -> bool:
        """Whether there are letters in it, and not numbers alone."""
        return any(letter.isalpha() for text in self.texts for letter in text)

    @cached_property
    def conversation(self) -> str | None:
        """The format of the conversations that it holds; None where it holds none."""
        first = next((cell[0] for cell in self.cells if isinstance(cell, list) and cell), None)
        keys = set(first) if isinstance(first, dict) else set()
        forms = {name: form for name, form in FORMATS.items() if isinstance(form, Conversation)}
        return next((name for name, form in forms.items() if {form.role, form.content} <= keys), None)

    @property
    def no_text(self) -> bool:
        """Whether it holds lists or objects alone."""
        return not self.texts and any(isinstance(cell, (list, dict)) for cell in self.cells)


def columns_of(names: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[Column]:
    """Return the columns of some rows."""
    columns = [Column(name, rows) for name in names]
    letters = {column.says: column for column in columns}
    if {"q", "a"} <= set(letters):  # either alone is no more than a letter
        letters["q"].says, letters["a"].says = "question", "answer"
    return columns


def _named_identifier(column: Column) -> bool:
    return column.says.rpartition(" ")[2] in IDENTIFIER_NAMES


def is_known(column: Column) -> bool:
    """Return whether a column has one of the names that tell what it is for."""
    return column.says in set().union(*QUESTION_NAMES, *ANSWER_NAMES, IDENTIFIER_NAMES - {""})


def labels_in(texts: Sequence[str]) -> list[str]:
    """Return the different texts if they look like labels: few, short, and each often there; else none."""
    different = sorted(set(texts))
    few = 2 <= len(different) <= MAX_LABELS and len(texts) >= MIN_ROWS_PER_LABEL * len(different)
    short = all(len(text) <= MAX_LABEL_CHARACTERS and len(text.split()) <= MAX_LABEL_WORDS for text in different)
    return different if few and short else []


def brief(text: str) -> str:
    """Return a text on one line, in quotes, and cut where it is long."""
    line = " ".join(text.split())
    return f"'{line}'" if len(line) <= 60 else f"'{line[:57]}...'"


def listed(texts: Sequence[str]) -> str:
    """Return the first few texts in quotes, and how many more there are."""
    more = [f"{len(texts) - MAX_SHOWN} more"] if len(texts) > MAX_SHOWN else []
    return ", ".join([*map(brief, texts[:MAX_SHOWN]), *more])


def rank(column: Column, names: Sequence[set[str]]) -> int:
    """Return how well a column's name is one of these: 1 is best, 0 is not at all."""
    last = column.says.rpartition(" ")[2]
    matches = [word in group for word in (column.says, last, last.removesuffix("s")) for group in names]
    return matches.index(True) + 1 if any(matches) else 0


def text_in(cell: object) -> str:
    """Return the text of a cell; none of one that cannot be learned from."""
    try:
        return text_of(cell, "").strip()
    except BadRowError:
        return ""
