"""Choose methods by what they can do, as ``adapterzoo methods --where merges,nf4`` asks."""

from __future__ import annotations

from typing import NamedTuple

from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.methods.capabilities import COLUMNS, Record, capabilities
from adapterzoo.methods.contract import TASK_TYPES
from adapterzoo.methods.registry import Registry
from adapterzoo.methods.trainable import verdict
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.tasks.registry import Tasks


class Term(NamedTuple):
    """A capability that methods shall have, or shall not have."""

    column: str
    wanted: bool


class Matches(NamedTuple):
    """The methods for which all terms hold, and those of which that is not known."""

    names: list[str]
    unknown: list[str]


def parse(where: str, tasks: Tasks) -> list[Term]:
    """Return the terms of a text like ``merges,nf4,task=classification,!resumes``.

    Raises:
        UserError: a term is unknown, or there is none.
    """
    columns = {**{column.lower(): column for column in COLUMNS}, **{name: name for name in quantizations()}}
    columns |= {name: tasks[name].task_type for name in tasks}
    terms = []
    for written in filter(None, (term.strip() for term in where.split(","))):
        name = written.removeprefix("!").strip().lower()
        column = columns.get(name.removeprefix("task="))
        if column is None or (name.startswith("task=") and column not in TASK_TYPES):
            hint = did_you_mean(name.removeprefix("task="), columns)
            every = f"The terms are {', '.join(_shown(tasks))}; a '!' in front of one asks for methods without it."
            raise UserError.at(f"--where {written}", "unknown term.", f"{hint} {every}" if "mean" in hint else every)
        terms.append(Term(column, not written.startswith("!")))
    if not terms:
        raise UserError.at("--where", "name what methods shall do.", "Like merges,nf4 or task=classification,!resumes.")
    return terms


def matching(zoo: Registry, terms: list[Term]) -> Matches:
    """Return the methods for which all terms hold."""
    found = Matches([], [])
    for name in zoo:
        record = {**_on_quantizations(zoo, name), **capabilities(zoo, name)}
        values = [(record[term.column] is True) is term.wanted if term.column in record else None for term in terms]
        if zoo[name].unavailable is None and False not in values:
            (found.unknown if None in values else found.names).append(name)
    return found


def _on_quantizations(zoo: Registry, name: str) -> Record:
    """Return whether a method trains on each quantization, as far as that is known."""
    verdicts = {quantization: verdict(zoo, name, quantization) for quantization in quantizations()}
    return {quantization: found for quantization, found in verdicts.items() if found is not None}


def _shown(tasks: Tasks) -> list[str]:
    """Return the terms as users write them: the columns, and the tasks by their names."""
    columns = [column for column in COLUMNS if column not in TASK_TYPES]
    return [*columns, *(name for name in quantizations() if name not in COLUMNS), *tasks]
