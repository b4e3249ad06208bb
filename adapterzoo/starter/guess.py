"""Guess from the first rows of a data file what its columns are for, and tell how sure each guess is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adapterzoo.errors import UserError
from adapterzoo.formats import FORMATS, Conversation, recognise
from adapterzoo.row import BadRowError, EmptyRowError
from adapterzoo.starter.columns import (
    ANSWER_NAMES,
    NUMBERING,
    QUESTION_NAMES,
    Column,
    brief,
    labels_in,
    listed,
    rank,
)

LONG_ANSWER_CHARACTERS = 60  # answers that are longer on average are compared by their words
MUCH_LONGER = 3  # how many times as long as the next one a column is whose texts are the longest by far
METRICS = {
    "labels": "[accuracy, macro_f1, loss]",
    "long answers": "[rouge, loss, perplexity]",
    "short answers": "[exact_match, loss, perplexity]",
}
Sureness = Literal["certain", "likely", "a guess", "not known"]


@dataclass(frozen=True)
class Finding:
    """One guess: the value for a key of the recipe, and how sure that is."""

    key: str
    """with its section, like ``data.columns.answer``"""
    value: str | None
    """None: not known"""
    sureness: Sureness
    reason: str
    choices: tuple[str, ...] = ()
    """what it can be, where it is not known"""

    @property
    def name(self) -> str:
        """The key without its section."""
        return self.key.rpartition(".")[2]


@dataclass(frozen=True)
class Guess:
    """All that was found in the data."""

    format: Finding
    columns: tuple[Finding, ...]
    metrics: Finding
    unused: tuple[str, ...]
    """the columns that nothing is learned from, each with the reason"""

    @property
    def unknown(self) -> list[Finding]:
        """The keys that the user has to fill in."""
        return [found for found in (self.format, *self.columns, self.metrics) if found.value is None]


Shape = tuple[Finding, tuple[Finding, ...]]
"""the format, and what each of its columns is"""


def guess(columns: Sequence[Column], doubt: str = "") -> Guess:
    """Return what the columns are for.

    Args:
        columns: all of the data.
        doubt: why their names may be no names; then which is which is not guessed.

    Raises:
        UserError: no column holds text.
    """
    form, roles = _by_format_names(columns) or _conversations(columns) or _by_roles(columns, doubt)
    used = {name for found in roles for name in (found.value, *found.choices)}
    unused = tuple(_unused(column) for column in columns if form.value and column.name not in used)
    return Guess(form, roles, _metrics(form, roles, columns), unused)


def _by_format_names(columns: Sequence[Column]) -> Shape | None:
    """Return the format of questions and answers whose columns are all there, by their names."""
    texts = [column.name for column in columns if not column.no_text]
    # A column that is spelled as the format spells it goes before one in capitals.
    spelled = {name.lower().strip(): name for name in reversed(texts)} | {name: name for name in texts}
    names = [name for name in recognise(list(spelled)) if FORMATS[name].answer]
    if not names:
        return None
    if len(names) > 1:
        return Finding("data.format", None, "not known", f"the columns fit {' and '.join(names)}", tuple(names)), ()
    form = FORMATS[names[0]]
    taken = [key for key in (*form.columns, *form.optional) if key in spelled]
    roles = (_role(key, spelled[key], "certain", "its name says so") for key in taken)
    return _format(names[0], "certain", "the columns' names say so"), tuple(roles)


def _conversations(columns: Sequence[Column]) -> Shape | None:
    """Return the format of the column that holds conversations."""
    found = [column for column in columns if column.conversation]
    named = [column for column in found if column.says in ("messages", "conversations")] or found
    if not named or not (name := named[0].conversation):
        return None
    form = _format(name, "certain", f"{brief(named[0].name)} holds conversations")
    key = FORMATS[name].columns[0]
    if len(named) > 1:
        return form, (_unknown(key, named, "several columns hold conversations"),)
    alone = len(found) == 1
    reason = "no other column holds conversations" if alone else "of those with conversations it is named so"
    return form, (_role(key, named[0].name, "certain" if alone else "likely", reason),)


def _by_roles(columns: Sequence[Column], doubt: str) -> Shape:
    """Return plain text, or the columns that are most likely asked and answered."""
    texts = [column for column in columns if column.texts and (doubt or not column.identifier)]
    if not texts:
        names = ", ".join(column.name for column in columns) or "none"
        raise UserError.at("DATA", f"has no column of text (its columns: {names}).")
    named = next((column for column in texts if column.says == "text"), None)
    others = [column for column in texts if column is not named]
    if len(texts) == 1:
        return _plaintext_in(texts[0], columns, doubt)
    if doubt:
        roles = (_unknown("question", texts, doubt), _unknown("answer", texts, doubt))
        return _format("qa", "a guess", "there are several columns of text"), roles
    if named and not any(column.labels or rank(column, ANSWER_NAMES) for column in others):
        form = _format("text", "likely", "no other column looks like an answer")
        return form, (_role("text", named.name, "certain", "its name says so"),)
    return _question_and_answer(columns, texts)


def _plaintext_in(column: Column, columns: Sequence[Column], doubt: str) -> Shape:
    """Return the format of plain text, for data with one column of it."""
    maybe = [other.name for other in columns if other.identifier and (other.labels or other.identifier == NUMBERING)]
    if doubt:
        return _format("text", "a guess", "there is one column of text"), (_unknown("text", [column], doubt),)
    if maybe:
        reason = f"there is one column of text, but {listed(maybe)} may be an answer"
        return _format("text", "a guess", reason), (_role("text", column.name, "likely", "no other column is text"),)
    sureness: Sureness = "certain" if column.says == "text" else "likely"
    form = _format("text", sureness, "there is one column of text")
    return form, (_role("text", column.name, sureness, "no other column is text"),)


def _question_and_answer(columns: Sequence[Column], texts: Sequence[Column]) -> Shape:
    """Return which columns of text are asked and answered: by their names, else by what they hold."""
    asked, answered = _named("question", texts, QUESTION_NAMES), _named("answer", texts, ANSWER_NAMES)
    objects = [column for column in columns if column.no_text and rank(column, ANSWER_NAMES)]
    if answered is None and objects:
        reason = f"{brief(objects[0].name)} is named so, but holds no text"
        answered = _unknown("answer", _rest(texts, asked), reason)
    answered = answered or _answer_by_values(_rest(texts, asked), asked)
    asked = asked or _question_by_values(_rest(texts, answered), answered)
    if asked.sureness == answered.sureness == "certain":
        return _format("qa", "certain", "the columns' names say so"), (asked, answered)
    sureness: Sureness = "likely" if asked.value and answered.sureness in ("certain", "likely") else "a guess"
    return _format("qa", sureness, "there are several columns of text"), (asked, answered)


def _named(key: str, texts: Sequence[Column], names: Sequence[set[str]]) -> Finding | None:
    """Return the column whose name says that it is the question, or the answer; None where no name does."""
    ranks = {column.name: place for column in texts if (place := rank(column, names))}
    best = min(ranks.values(), default=0)
    found = [column for column in texts if ranks.get(column.name) == best]
    if not ranks:
        return None
    if len(found) > 1:
        reason = "several columns are named so"
        return _unknown(key, found, reason) if key == "answer" else _longest(key, found, reason)
    sure = len(ranks) == 1 and found[0].says in set().union(*names)
    others = listed([name for name in ranks if name != found[0].name])
    return _role(
        key,
        found[0].name,
        "certain" if sure else "likely",
        f"its name says so, more than {others}" if others else "its name says so",
    )


def _answer_by_values(rest: Sequence[Column], asked: Finding | None) -> Finding:
    """Return the answer's column where no name tells it: that of labels, the only one left, or the second of two."""
    labelled = [column for column in rest if column.labels]
    if len(labelled) > 1:
        return _unknown("answer", labelled, "several columns hold labels")
    # Beside labels, short texts may be the answer as well, and the labels what kind of row it is.
    others = [column for column in rest if column.has_words and column not in labelled]
    decided = not others or (asked is None and _longest("question", others, "").value is not None)
    if labelled and decided:
        return _role("answer", labelled[0].name, "likely", f"it holds labels: {listed(labelled[0].labels)}")
    if asked and asked.value and len(rest) == 1:
        return _role("answer", rest[0].name, "a guess", "it is the only other column of text")
    if asked is None and len(rest) == 2 and rest[0].has_words:
        return _role("answer", rest[1].name, "a guess", f"it stands behind {brief(rest[0].name)}; nothing else tells")
    return _unknown("answer", rest, "neither names nor values tell")


def _question_by_values(rest: Sequence[Column], answered: Finding) -> Finding:
    """Return the question's column where no name tells it: the only one left, or the one with the longest texts."""
    if len(rest) > 1:
        return _longest("question", rest, "neither names nor values tell")
    sureness: Sureness = "likely" if answered.sureness in ("certain", "likely") else "a guess"
    return _role("question", rest[0].name, sureness, "it is the only other column of text")


def _longest(key: str, columns: Sequence[Column], reason: str) -> Finding:
    """Return the column with by far the longest texts; unknown where none has, or all are labels or numbers."""
    texts = [column for column in columns if column.has_words and not column.labels]
    first, second = [*sorted(texts, key=lambda column: column.length, reverse=True), None, None][:2]
    if first and (second is None or first.length >= MUCH_LONGER * second.length):
        return _role(key, first.name, "a guess", "its texts are the longest by far")
    return _unknown(key, columns, reason)


def _rest(texts: Sequence[Column], found: Finding | None) -> list[Column]:
    """Return the columns that a finding leaves for the other side."""
    taken = set() if found is None else {found.value, *found.choices}
    return [column for column in texts if column.name not in taken] or list(texts)


def _metrics(form: Finding, roles: Sequence[Finding], columns: Sequence[Column]) -> Finding:
    """Return the metrics that fit the answers; unknown where it depends on which column they are."""
    key = "evaluate.metrics"
    if form.value == "text":
        return Finding(key, "[loss, perplexity]", "certain", "plain text has no answers to compare")
    choices = tuple(f"{names} for {kind}" for kind, names in METRICS.items())
    answers = _answers(form, roles, columns)
    kinds = {_kind(texts): texts for texts in answers}
    if len(kinds) != 1:
        return Finding(key, None, "not known", "it depends on the answers", choices)
    ((kind, texts),) = kinds.items()
    if len(answers) > 1:
        return Finding(key, METRICS[kind], "likely", f"all columns that may be the answer hold {kind}")
    reasons = {
        "labels": f"the answers are labels: {listed(labels_in(texts))}",
        "long answers": f"the answers have more than {LONG_ANSWER_CHARACTERS} characters on average",
        "short answers": "the answers are short texts, not labels",
    }
    if len(set(texts)) < 2:
        return Finding(key, METRICS[kind], "a guess", "all answers that were looked at are the same")
    return Finding(key, METRICS[kind], "likely", reasons[kind])


def _kind(answers: Sequence[str]) -> str:
    """Return what answers are: a key of ``METRICS``."""
    different = set(answers)
    long = sum(map(len, different)) > LONG_ANSWER_CHARACTERS * len(different)
    return "labels" if labels_in(answers) else "long answers" if long else "short answers"


def _answers(form: Finding, roles: Sequence[Finding], columns: Sequence[Column]) -> list[list[str]]:
    """Return the answers in each column that may hold them."""
    if form.value is None:
        keys = [FORMATS[name].answer for name in form.choices]
        return [column.texts for column in columns if column.name.lower().strip() in keys]
    conversation = isinstance(FORMATS[form.value], Conversation)
    (role,) = (found for found in roles if conversation or found.name == FORMATS[form.value].answer)
    meant = [column for column in columns if column.name in (role.value, *role.choices)]
    return [_last_turns(form.value, column) if conversation else column.texts for column in meant]


def _last_turns(form: str, column: Column) -> list[str]:
    """Return the last answer of each conversation; those that are not of the format are left out."""
    answers = []
    for cell in column.cells:
        try:
            turns = FORMATS[form].turns({FORMATS[form].columns[0]: cell if isinstance(cell, list) else None})
        except (BadRowError, EmptyRowError):
            continue
        answers.append(turns[-1].content)
    return answers


def _format(name: str, sureness: Sureness, reason: str) -> Finding:
    return Finding("data.format", name, sureness, reason)


def _role(key: str, column: str, sureness: Sureness, reason: str) -> Finding:
    return Finding(f"data.columns.{key}", column, sureness, reason)


def _unknown(key: str, columns: Sequence[Column], reason: str) -> Finding:
    return Finding(f"data.columns.{key}", None, "not known", reason, tuple(column.name for column in columns))


def _unused(column: Column) -> str:
    """Return a column's name, and why it is not used where that can be told."""
    reason = column.identifier or ("empty" if not column.texts and not column.no_text else "")
    reason = "no text" if column.no_text else reason
    return brief(column.name) + (f" ({reason})" if reason else "")
