"""Write a first recipe for a data file; its comments say what was guessed about the data. It works without torch."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from itertools import groupby, islice
from pathlib import Path

from adapterzoo.data.sources import RowSource, open_source
from adapterzoo.errors import UserError
from adapterzoo.files import is_device_name
from adapterzoo.recipe.document import NOT_FILLED_IN
from adapterzoo.recipe.files import DELIMITERS
from adapterzoo.recipe.schema import DataSection
from adapterzoo.starter.columns import brief, columns_of, listed
from adapterzoo.starter.finding import Finding
from adapterzoo.starter.guess import Guess, guess
from adapterzoo.starter.header import header_doubt
from adapterzoo.terminal import clean

MAX_ROWS = 1000  # number of rows at the start of the data that are looked at
DEFAULT_MODEL = "smollm2-135m"


@dataclass(frozen=True)
class Starter:
    """The text of a new recipe, and the guesses that it is based on."""

    recipe: str
    guess: Guess

    def lines(self) -> list[str]:
        """Return one sentence for each guess."""
        return _sentences(self.guess)


def starter(source: str, model: str = DEFAULT_MODEL, shown: str | None = None) -> Starter:
    """Return a recipe for a data source.

    Args:
        source: a file, a folder or a hub id.
        model: the base model that the recipe names.
        shown: the source as the recipe should name it; by default unchanged.

    Raises:
        UserError: the source cannot be read, or has no rows, no column of text or no line of column names.
    """
    table, delimiter = _open(source)
    rows = [cells for _, cells in islice(table.rows, MAX_ROWS)]
    if not rows:
        raise UserError.at(source, "has column names but no rows.")
    columns = columns_of(table.columns, rows)
    suffix = Path(source).suffix
    doubt = header_doubt(source, columns, delimiter or DELIMITERS[suffix]) if suffix in DELIMITERS else ""
    guessed = guess(source, columns, doubt)
    seen = f"Columns: {', '.join(table.columns)}. The first {len(rows)} rows were looked at."
    comments = [f"# {_comment(seen)}", "# What init guessed, and how sure it is:"]
    comments += [f"#   {_comment(line)}" for line in _sentences(guessed)]
    return Starter(_recipe(shown or source, model, delimiter, guessed, comments), guessed)


def _open(source: str) -> tuple[RowSource, str | None]:
    """Open a source; return it, and its delimiter if it is not the usual one for its suffix."""
    section = DataSection(source=source)
    try:
        return open_source([source], section), None
    except UserError as error:
        # The error for a wrong delimiter says which one is right.
        hint = re.search(r'data\.delimiter: "(\\t|.)"', str(error))
        if hint is None:
            raise
    delimiter = hint[1].replace("\\t", "\t")
    return open_source([source], section.model_copy(update={"delimiter": delimiter})), delimiter


def _sentences(guessed: Guess) -> list[str]:
    """Return one sentence for each guess; keys that are unknown for the same reason share one."""
    groups = groupby(guessed.columns, lambda role: (role.value, role.reason, role.choices))
    unused = [f"not used: {', '.join(guessed.unused)}"] if guessed.unused else []
    roles = [_sentence_of(*group) for _, group in groups]
    return [_sentence_of(guessed.format), *roles, *unused, _sentence_of(guessed.metrics)]


def _sentence_of(*findings: Finding) -> str:
    """Return a sentence for one finding, or for several keys that are unknown for the same reason."""
    first = findings[0]
    is_column = first.key.startswith("data.columns.")
    if first.value is not None:
        value = brief(first.value) if is_column else first.value
        return f"{first.name} = {value}: {first.sureness} ({first.reason})"
    choices = f"; it can be {listed(first.choices)}" if is_column else ""
    names, keys = (" and ".join(words) for words in zip(*((role.name, role.key) for role in findings), strict=True))
    return f"{names}: not known: fill in {keys} ({first.reason}{choices})"


def _recipe(source: str, model: str, delimiter: str | None, guessed: Guess, comments: Sequence[str]) -> str:
    """Return the text of the recipe."""
    lines = [f"  source: {_quoted(source)}"]
    if delimiter:
        lines.append(f"  delimiter: {json.dumps(delimiter)}")
    lines += [_line(guessed.format), *_columns(guessed.columns)]
    plain_text = guessed.format.value == "text"
    template = (files(__name__) / "recipe.yaml.in").read_text(encoding="utf-8")
    return template.format(
        title=_comment(source),
        guesses="\n".join(comments),
        name=_quoted(_name(source)),
        model=_quoted(model),
        data="\n".join(lines),
        metrics=_line(guessed.metrics),
        shots="  shots: 0                     # plain text has no questions, so no examples are shown\n"
        if plain_text
        else "",
    )


def _name(source: str) -> str:
    """Return a name for the recipe of a data file."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(source).stem).strip("-._")[:64].rstrip(".")
    return "my-data" if not name or is_device_name(name) else name


def _line(finding: Finding, indent: str = "  ") -> str:
    """Return the line of the recipe for a finding; its comment says how sure it is, or what to fill in."""
    is_column = finding.key.startswith("data.columns.")
    if finding.value is None:
        choices = ", ".join(map(_quoted, finding.choices) if is_column else finding.choices)
        value, comment = NOT_FILLED_IN, f"fill in one of: {choices}"
    else:
        value = _quoted(finding.value) if is_column else finding.value
        comment = f"{finding.sureness}: {finding.reason}"
    return f"{indent + f'{finding.name}: {value}':<30} # {_comment(comment)}"


def _columns(roles: Sequence[Finding]) -> list[str]:
    """Return the lines of ``data.columns``; none if the columns already have the names of the format."""
    if any(role.value is None for role in roles):
        # Each role needs its own line, because ``???`` has another meaning within braces in YAML.
        return ["  columns:", *(_line(role, "    ") for role in roles)]
    if all(role.value == role.name for role in roles):
        return []
    pairs = ", ".join(f"{role.name}: {_quoted(role.value or '')}" for role in roles)
    return [f"  columns: {{{pairs}}}"]


def _quoted(text: str) -> str:
    """Return a text as YAML, in quotes if YAML would misread it without them."""
    readable = re.fullmatch(r"[A-Za-z_./~][\w./ -]*", text) and not text.endswith(" ")
    if readable and text.lower() not in ("true", "false", "yes", "no", "null", "on", "off", "~"):
        return text
    # YAML does not allow control characters, not even in quotes.
    quoted = json.dumps(text, ensure_ascii=False)
    return "".join(char if char.isprintable() else f"\\U{ord(char):08x}" for char in quoted)


def _comment(text: str) -> str:
    """Return a text on one line and without control characters."""
    return " ".join(clean(text).split())
