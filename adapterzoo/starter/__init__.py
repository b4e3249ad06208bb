"""Write a first recipe for a data file, with what was guessed about the data in its comments. No torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby, islice
from pathlib import Path

from adapterzoo.data.sources import Source, open_source
from adapterzoo.errors import UserError
from adapterzoo.recipe.document import NOT_FILLED_IN
from adapterzoo.recipe.files import DELIMITERS
from adapterzoo.recipe.schema import DataSection
from adapterzoo.starter.columns import brief, columns_of, listed
from adapterzoo.starter.guess import Finding, Guess, guess
from adapterzoo.starter.header import header_doubt
from adapterzoo.terminal import clean

MAX_ROWS = 1000  # rows that are looked at
MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Starter:
    """A recipe's text, and what was guessed for it."""

    recipe: str
    guess: Guess

    def lines(self) -> list[str]:
        """Return a sentence for each thing that was guessed."""
        return _sentences(self.guess)


def starter(source: str, model: str = MODEL, shown: str | None = None) -> Starter:
    """Return a recipe for a data source.

    Args:
        source: a file, a folder or a hub id.
        model: the base model that the recipe names.
        shown: how the recipe names the source, where that is not the same.

    Raises:
        UserError: the source cannot be read, or has no rows, no text or no line of column names.
    """
    table, delimiter = _open(source)
    rows = [cells for _, cells in islice(table.rows, MAX_ROWS)]
    if not rows:
        raise UserError.at(source, "has column names but no rows.")
    columns = columns_of(table.columns, rows)
    suffix = Path(source).suffix
    doubt = header_doubt(source, columns, delimiter or DELIMITERS[suffix]) if suffix in DELIMITERS else ""
    found = guess(columns, doubt)
    looked = f"{', '.join(table.columns)}: the columns; the first {len(rows)} rows were looked at."
    comments = [f"# {_comment(looked)}", "# What init guessed, and how sure it is:"]
    comments += [f"#   {_comment(line)}" for line in _sentences(found)]
    return Starter(_recipe(shown or source, model, delimiter, found, comments), found)


def _open(source: str) -> tuple[Source, str | None]:
    """Return an opened source, and its delimiter where that is not the one of its suffix."""
    section = DataSection(source=source)
    try:
        return open_source([source], section), None
    except UserError as error:
        found = re.search(r'data\.delimiter: "(\\t|.)"', str(error))
        if found is None:
            raise
    delimiter = found[1].replace("\\t", "\t")
    return open_source([source], section.model_copy(update={"delimiter": delimiter})), delimiter


def _sentences(found: Guess) -> list[str]:
    """Return a sentence for each thing that was guessed."""
    asked = groupby(found.columns, lambda role: (role.value, role.reason, role.choices))
    unused = [f"not used: {', '.join(found.unused)}"] if found.unused else []
    roles = [_sentence_of(*alike) for _, alike in asked]
    return [_sentence_of(found.format), *roles, *unused, _sentence_of(found.metrics)]


def _sentence_of(*found: Finding) -> str:
    """Return what is known of a key, or of several that are not known for the same reason."""
    first = found[0]
    column = first.key.startswith("data.columns.")
    if first.value is not None:
        value = brief(first.value) if column else first.value
        return f"{first.name} = {value}: {first.sureness} ({first.reason})"
    choices = f"; it can be {listed(first.choices)}" if column else ""
    names, keys = (" and ".join(words) for words in ([role.name for role in found], [role.key for role in found]))
    return f"{names}: not known: fill in {keys} ({first.reason}{choices})"


def _recipe(source: str, model: str, delimiter: str | None, found: Guess, comments: Sequence[str]) -> str:
    """Return the recipe's text."""
    lines = [f"  source: {_quoted(source)}"]
    if delimiter:
        lines.append(f"  delimiter: {json.dumps(delimiter)}")
    lines += [_line(found.format), *_columns(found.columns)]
    plain = found.format.value == "text"
    template = (files(__name__) / "recipe.yaml.in").read_text(encoding="utf-8")
    return template.format(
        title=_comment(source),
        found="\n".join(comments),
        name=re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).strip("-._")[:64] or "my-data",
        model=_quoted(model),
        data="\n".join(lines),
        metrics=_line(found.metrics),
        shots="  shots: 0                     # nothing is asked: no examples to show\n" if plain else "",
    )


def _line(found: Finding, indent: str = "  ") -> str:
    """Return a key with its value, and how sure that is or what it can be."""
    column = found.key.startswith("data.columns.")
    if found.value is None:
        choices = ", ".join(map(_quoted, found.choices) if column else found.choices)
        value, comment = NOT_FILLED_IN, f"fill in one of: {choices}"
    else:
        value, comment = _quoted(found.value) if column else found.value, f"{found.sureness}: {found.reason}"
    return f"{indent + f'{found.name}: {value}':<30} # {_comment(comment)}"


def _columns(roles: Sequence[Finding]) -> list[str]:
    """Return the key that says which column is which; nothing where the format's names are theirs already."""
    if any(role.value is None for role in roles):
        # On lines of their own: within braces, YAML takes a bare ??? for something else.
        return ["  columns:", *(_line(role, "    ") for role in roles)]
    if all(role.value == role.name for role in roles):
        return []
    pairs = ", ".join(f"{role.name}: {_quoted(role.value or '')}" for role in roles)
    return [f"  columns: {{{pairs}}}"]


def _quoted(text: str) -> str:
    """Return a text as YAML: bare where nothing in it can be misread."""
    plain = re.fullmatch(r"[A-Za-z_./~][\w./ -]*", text) and not text.endswith(" ")
    if plain and text.lower() not in ("true", "false", "yes", "no", "null", "on", "off", "~"):
        return text
    # YAML takes no control characters, not even in quotes.
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(letter if letter.isprintable() else f"\\U{ord(letter):08x}" for letter in quoted)


def _comment(text: str) -> str:
    return " ".join(clean(text).split())
