"""From the cells of a row to the turns of an example: the format, the columns, the template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapterzoo.data import template
from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.formats import FORMATS, Conversation, recognise
from adapterzoo.formats.cell_text import kind_of, text_of
from adapterzoo.recipe.schema import DataSection
from adapterzoo.row import BadRowError, EmptyRowError, Row, Turn

MAP = "Say which is which under data.columns."


class Shaper:
    """Makes examples of the rows of one source. Checks what can be checked from the columns alone."""

    def __init__(self, data: DataSection, columns: Sequence[str], where: str, say: Callable[[str], None]) -> None:
        """Choose the format.

        Args:
            columns: those of the source, under the user's names.
            where: the source's name, for messages.
            say: is told what was recognised.

        Raises:
            UserError: no format fits the columns, or the template or ``group_by`` names one that is not there.
        """
        self.columns = [column for column in columns if column not in data.drop_columns]
        self.group_by = data.split.group_by
        self.name = data.format if data.format != "auto" else _recognised(data, self.columns, where, say)
        self.format = FORMATS[self.name]
        self.mapping = {name: data.columns.get(name, name) for name in (*self.format.columns, *self.format.optional)}
        self.system = data.system
        self._kinds: dict[str, tuple[str, str]] = {}
        self._whole: tuple[template.Template, template.Template] | None = None
        self._asked: template.Template | None = None
        problems = [*self._column_problems(data, where), *self._template_problems(data)]
        named = {"data.drop_columns": data.drop_columns, "data.filter": data.filter}
        for key, names in named.items():
            problems += [_unknown(key, name, columns) for name in names if name not in columns]
        if self.group_by is not None and self.group_by not in self.columns:
            problems.append(_unknown("data.split.group_by", self.group_by, self.columns))
        if problems:
            raise UserError(*problems)

    def row(self, place: str, cells: Mapping[str, Any]) -> Row:
        """The example that a row is.

        Raises:
            EmptyRowError: something that is needed is empty.
            BadRowError: it is not of the format, or a cell is of another kind than in the rows before.
        """
        own = {name: cells.get(column) for name, column in self.mapping.items()}
        for name, column in self.mapping.items():
            kind = kind_of(own[name])
            if kind and kind != (first := self._kinds.setdefault(column, (kind, place)))[0]:
                raise BadRowError(
                    f"'{column}' is {kind} here and {first[0]} in {first[1]}.", "Write it alike in all rows."
                )
        group = None if self.group_by is None else text_of(cells.get(self.group_by), self.group_by)
        if self._whole or (self._asked and self.format.answer is None):
            return Row(tuple(self._raw_turns(cells, own)), raw=True, place=place, group=group)
        turns = self._turns(own)
        if self._asked:
            turns[0] = Turn("user", self._asked.fill(self._texts(cells, own)))
        return Row(tuple(turns), raw=self.name == "text", place=place, group=group)

    def unanswered(self, cells: Mapping[str, Any], row: Row) -> bool:
        """Whether a question at the end of a conversation was left out."""
        if not isinstance(self.format, Conversation):
            return False
        messages = cells[self.mapping[self.format.columns[0]]]
        last = messages[-1].get(self.format.role)
        return bool(last != row.turns[-1].role and str(last).lower() in ("user", "human"))

    def _raw_turns(self, cells: Mapping[str, Any], own: Mapping[str, Any]) -> list[Turn]:
        texts = self._texts(cells, own)
        if self._whole is None:
            assert self._asked is not None
            filled = self._asked.fill(texts)
            if not any(texts[name].strip() for name in self._asked.fields):
                raise EmptyRowError(self._asked.fields[0])
            return [Turn("assistant", filled)]
        self._turns(own)  # for what it says of empty cells
        before, answer = self._whole
        return [Turn("user", before.fill(texts)), Turn("assistant", answer.fill(texts))]

    def _turns(self, own: Mapping[str, Any]) -> list[Turn]:
        try:
            return list(self.format.turns(own))
        except EmptyRowError as empty:  # named as the user names it
            raise EmptyRowError(self.mapping.get(empty.column, empty.column)) from None

    def _texts(self, cells: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, str]:
        fields = [part.fields for part in (self._whole or (self._asked,)) if part]
        values = {**cells, **own, "system": self.system}
        return {name: text_of(values.get(name), name).strip() for names in fields for name in names}

    def _column_problems(self, data: DataSection, where: str) -> list[Problem]:
        problems = []
        for name in data.columns:
            if name not in self.mapping:
                hint = did_you_mean(name, self.mapping)
                problems.append(Problem("data.columns", f"the format {self.name} has no column '{name}'.", hint))
        if self.name == "text" and data.template:
            return problems  # the template says which columns
        for name in self.format.columns:
            column = self.mapping[name]
            if column not in self.columns:
                hint = f"{did_you_mean(column, self.columns)} {MAP}"
                problems.append(Problem(where, f"there is no column '{column}'.", hint))
        used = list(self.mapping.values())
        if twice := next((column for column in used if used.count(column) > 1), None):
            problems.append(Problem("data.columns", f"prompt and answer are both the column '{twice}'."))
        return problems

    def _template_problems(self, data: DataSection) -> list[Problem]:
        if data.template is None:
            if self.name == "text" and data.system:
                return [
                    Problem("data.system", "is nowhere in plain text.", "Give a data.template with {system} in it.")
                ]
            return []
        if isinstance(self.format, Conversation):
            what = f"cannot be put around a conversation (format {self.name})."
            return [Problem(template.PLACE, what, "data.chat_template says how turns are written.")]
        known = [*self.columns, *(name for name, column in self.mapping.items() if column in self.columns)]
        made, problems = template.parse(data.template, dict.fromkeys(known), data.system)
        if made is None or problems:
            return problems
        answer = self.format.answer
        names = {answer, self.mapping.get(answer or "")} - {None}
        answers = [name for name in made.fields if name in names]
        if len(answers) > 1:
            return [Problem(template.PLACE, f"names the answer, '{{{answers[0]}}}', more than once.")]
        if answers:
            self._whole = made.split(answers[0])
        else:
            self._asked = made
        if data.system and (self._whole or answer is None) and "system" not in made.fields:
            what = "writes the whole example, but not the system message."
            return [Problem(template.PLACE, what, "Put {system} where it belongs, or leave data.system out.")]
        return []


def _recognised(data: DataSection, columns: Sequence[str], where: str, say: Callable[[str], None]) -> str:
    """The name of the one format that fits.

    Raises:
        UserError: none does, or several.
    """
    knowing = [name for name, form in FORMATS.items() if set(data.columns) <= {*form.columns, *form.optional}]
    if len(knowing) == 1:
        return knowing[0]  # said by the names that were mapped
    under = {column: name for name, column in data.columns.items()}
    names = recognise([under.get(column, column) for column in columns], data.columns)
    if len(names) == 1:
        say(f"data: format {names[0]} ({FORMATS[names[0]].summary}), recognised from the columns")
        return names[0]
    if names:
        raise UserError.at(where, f"its columns fit several formats: {', '.join(names)}.", "Choose with data.format.")
    shapes = "; ".join(f"{name} ({', '.join(form.columns)})" for name, form in FORMATS.items())
    what = f"its columns ({', '.join(columns) or 'none'}) are those of no format."
    raise UserError.at(where, what, f"{MAP} Formats and their columns: {shapes}.")


def _unknown(key: str, name: str, columns: Sequence[str]) -> Problem:
    return Problem(key, f"there is no column '{name}'.", did_you_mean(name, columns))
