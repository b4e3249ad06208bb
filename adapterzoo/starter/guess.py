"""Guess from the first rows of a data file what its columns are for, and say how sure each guess is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from adapterzoo.errors import UserError
from adapterzoo.formats import FORMATS, recognise
from adapterzoo.starter.columns import (
    ANSWER_NAMES,
    NUMBERING,
    QUESTION_NAMES,
    DataColumn,
    brief,
    listed,
    rank,
)
from adapterzoo.starter.finding import Finding, Sureness
from adapterzoo.starter.metrics import suitable_metrics

# A column has "the longest texts by far" if they are at least this many times as long as those of the next column.
MUCH_LONGER = 3


@dataclass(frozen=True)
class Guess:
    """All guesses about one data file."""

    format: Finding
    columns: tuple[Finding, ...]
    metrics: Finding
    unused: tuple[str, ...]
    """names of the columns that are not used, each with the reason if there is one"""

    @property
    def unknown(self) -> list[Finding]:
        """Return the findings whose keys the user has to fill in."""
        return [finding for finding in (self.format, *self.columns, self.metrics) if finding.value is None]


Shape = tuple[Finding, tuple[Finding, ...]]
"""the format, and a finding for each column of that format"""


def guess(source: str, columns: Sequence[DataColumn], doubt: str = "") -> Guess:
    """Guess what the columns of a data file are for.

    Args:
        source: the file, folder or hub id, for messages.
        columns: all columns of the data file.
        doubt: why the first line may not be column names; if given, no column is guessed.

    Raises:
        UserError: no column holds text.
    """
    format, roles = _by_format_names(columns) or _conversations(columns) or _by_roles(source, columns, doubt)
    used = {name for role in roles for name in (role.value, *role.choices)}
    unused = tuple(_unused(column) for column in columns if format.value and column.name not in used)
    return Guess(format, roles, suitable_metrics(format, roles, columns), unused)


def _by_format_names(columns: Sequence[DataColumn]) -> Shape | None:
    """Return the format that has answers and whose column names are in the data; None if there is none."""
    texts = [column.name for column in columns if not column.no_text]
    # A column spelled exactly like the format's has priority over one that differs in capitals.
    spelled = {name.lower().strip(): name for name in reversed(texts)} | {name: name for name in texts}
    names = [name for name in recognise(list(spelled)) if FORMATS[name].answer]
    if not names:
        return None
    if len(names) > 1:
        return Finding("data.format", None, "not known", f"the columns fit {' and '.join(names)}", tuple(names)), ()
    format = FORMATS[names[0]]
    present = [key for key in (*format.columns, *format.optional) if key in spelled]
    roles = (_role(key, spelled[key], "certain", "its name says so") for key in present)
    return _format(names[0], "certain", "the columns' names say so"), tuple(roles)


def _conversations(columns: Sequence[DataColumn]) -> Shape | None:
    """Return the format of the column with conversations; None if there is no such column."""
    candidates = [column for column in columns if column.conversation]
    named = [column for column in candidates if column.plain_name in ("messages", "conversations")] or candidates
    if not named or not (name := named[0].conversation):
        return None
    format = _format(name, "certain", f"{brief(named[0].name)} holds conversations")
    key = FORMATS[name].columns[0]
    if len(named) > 1:
        return format, (_unknown(key, named, "several columns hold conversations"),)
    alone = len(candidates) == 1
    reason = "no other column holds conversations" if alone else "it holds conversations, and its name says so"
    return format, (_role(key, named[0].name, "certain" if alone else "likely", reason),)


def _by_roles(source: str, columns: Sequence[DataColumn], doubt: str) -> Shape:
    """Return plain text, or the columns that are most likely the question and the answer."""
    texts = [column for column in columns if column.texts and (doubt or not column.identifier)]
    if not texts:
        names = ", ".join(column.name for column in columns) or "none"
        hint = "If init is wrong, write a recipe that names the columns under data.columns."
        raise UserError.at(source, f"has no column of text (its columns: {names}).", hint)
    named = next((column for column in texts if column.plain_name == "text"), None)
    others = [column for column in texts if column is not named]
    if len(texts) == 1:
        return _plain_text(texts[0], columns, doubt)
    if doubt:
        roles = (_unknown("question", texts, doubt), _unknown("answer", texts, doubt))
        return _format("qa", "a guess", "there are several columns of text"), roles
    if named and not any(column.labels or rank(column, ANSWER_NAMES) for column in others):
        format = _format("text", "likely", "no other column looks like an answer")
        return format, (_role("text", named.name, "certain", "its name says so"),)
    return _question_and_answer(columns, texts)


def _plain_text(text: DataColumn, columns: Sequence[DataColumn], doubt: str) -> Shape:
    """Return the format of plain text for data with one column of text."""
    # Labels and numbers that look like identifiers may be answers.
    identifiers = [column for column in columns if column.identifier]
    answers = [column.name for column in identifiers if column.labels or column.identifier == NUMBERING]
    if doubt:
        return _format("text", "a guess", "there is one column of text"), (_unknown("text", [text], doubt),)
    if answers:
        reason = f"there is one column of text, but {listed(answers)} may be an answer"
        return _format("text", "a guess", reason), (_role("text", text.name, "likely", "no other column is text"),)
    sureness: Sureness = "certain" if text.plain_name == "text" else "likely"
    format = _format("text", sureness, "there is one column of text")
    return format, (_role("text", text.name, sureness, "no other column is text"),)


def _question_and_answer(columns: Sequence[DataColumn], texts: Sequence[DataColumn]) -> Shape:
    """Return the columns with the question and the answer, by their names or else by their values."""
    question, answer = _named("question", texts, QUESTION_NAMES), _named("answer", texts, ANSWER_NAMES)
    objects = [column for column in columns if column.no_text and rank(column, ANSWER_NAMES)]
    if answer is None and objects:
        reason = f"{brief(objects[0].name)} is named like the answer, but holds no text"
        answer = _unknown("answer", _rest(texts, question), reason)
    answer = answer or _answer_by_values(_rest(texts, question), question)
    question = question or _question_by_values(_rest(texts, answer), answer)
    if question.sureness == answer.sureness == "certain":
        return _format("qa", "certain", "the columns' names say so"), (question, answer)
    sureness: Sureness = "likely" if question.value and answer.sureness in ("certain", "likely") else "a guess"
    return _format("qa", sureness, "there are several columns of text"), (question, answer)


def _named(key: str, texts: Sequence[DataColumn], names: Sequence[set[str]]) -> Finding | None:
    """Return the column whose name says that it is the question or the answer; None if no name does."""
    ranks = {column.name: value for column in texts if (value := rank(column, names))}
    best = min(ranks.values(), default=0)
    matches = [column for column in texts if ranks.get(column.name) == best]
    if not ranks:
        return None
    if len(matches) > 1:
        reason = f"several columns are named like the {key}"
        return _unknown(key, matches, reason) if key == "answer" else _longest(key, matches, reason)
    sure = len(ranks) == 1 and matches[0].plain_name in set().union(*names)
    others = listed([name for name in ranks if name != matches[0].name])
    return _role(
        key,
        matches[0].name,
        "certain" if sure else "likely",
        f"its name says so more clearly than the name of {others}" if others else "its name says so",
    )


def _answer_by_values(rest: Sequence[DataColumn], question: Finding | None) -> Finding:
    """Return the answer's column if no name shows it: the one with labels, the only one left, or the second of two."""
    labelled = [column for column in rest if column.labels]
    if len(labelled) > 1:
        return _unknown("answer", labelled, "several columns hold labels")
    # The labels are the answers if no other column with words is left, or if one is clearly the question. Else another
    # column may have the answers, and the labels may only say of which kind a row is.
    others = [column for column in rest if column.has_words and column not in labelled]
    decided = not others or (question is None and _longest("question", others, "").value is not None)
    if labelled and decided:
        return _role("answer", labelled[0].name, "likely", f"it holds labels: {listed(labelled[0].labels)}")
    if question and question.value and len(rest) == 1:
        return _role("answer", rest[0].name, "a guess", "it is the only other column of text")
    if question is None and len(rest) == 2 and rest[0].has_words:
        return _role("answer", rest[1].name, "a guess", f"only because it comes after {brief(rest[0].name)}")
    return _unknown("answer", rest, "neither names nor values show it")


def _question_by_values(rest: Sequence[DataColumn], answer: Finding) -> Finding:
    """Return the question's column if no name shows it: the only one left, or the one with the longest texts."""
    if len(rest) > 1:
        return _longest("question", rest, "neither names nor values show it")
    sureness: Sureness = "likely" if answer.sureness in ("certain", "likely") else "a guess"
    return _role("question", rest[0].name, sureness, "it is the only other column of text")


def _longest(key: str, columns: Sequence[DataColumn], reason: str) -> Finding:
    """Return the column with by far the longest texts, or unknown; columns of labels or numbers do not count."""
    texts = [column for column in columns if column.has_words and not column.labels]
    first, second = [*sorted(texts, key=lambda column: column.length, reverse=True), None, None][:2]
    if first and (second is None or first.length >= MUCH_LONGER * second.length):
        return _role(key, first.name, "a guess", "its texts are the longest by far")
    return _unknown(key, columns, reason)


def _rest(texts: Sequence[DataColumn], finding: Finding | None) -> list[DataColumn]:
    """Return the columns that are not part of a finding; all columns if all are part of it."""
    taken = set() if finding is None else {finding.value, *finding.choices}
    return [column for column in texts if column.name not in taken] or list(texts)


def _format(name: str, sureness: Sureness, reason: str) -> Finding:
    return Finding("data.format", name, sureness, reason)


def _role(key: str, column: str, sureness: Sureness, reason: str) -> Finding:
    return Finding(f"data.columns.{key}", column, sureness, reason)


def _unknown(key: str, columns: Sequence[DataColumn], reason: str) -> Finding:
    return Finding(f"data.columns.{key}", None, "not known", reason, tuple(column.name for column in columns))


def _unused(column: DataColumn) -> str:
    """Return the name of a column that is not used, and the reason if it is known."""
    reason = column.identifier or ("empty" if not column.texts and not column.no_text else "")
    reason = "no text" if column.no_text else reason
    return brief(column.name) + (f" ({reason})" if reason else "")
