"""Turn the cells of a row into the turns of an example, by the recipe's format, columns and template."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from adapterzoo.data import template
from adapterzoo.data_row import BadRowError, DataRow, EmptyRowError, Turn
from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.formats import FORMATS, Conversation, Format, recognise
from adapterzoo.formats.cell_text import kind_of, size_of, text_of
from adapterzoo.recipe.schema import DataSection

# Tokenizing takes some hundred bytes of memory for each character. Only the first max_length tokens are learned anyway.
MAX_CELL_CHARACTERS = 1_000_000
MAP_HINT = "Map your columns under data.columns."


class Shaper:
    """Turns the rows of one source into examples."""

    def __init__(
        self,
        data: DataSection,
        columns: Sequence[str],
        where: str,
        say: Callable[[str], None],
        formats: Mapping[str, Format] = FORMATS,
    ) -> None:
        """Choose the format, and check all that can be checked from the columns alone.

        Args:
            data: the recipe's data section.
            columns: the columns of the source, under the user's names.
            where: name of the source, for messages.
            say: is called with a message if the format was recognised.
            formats: the formats that the rows may have.

        Raises:
            UserError: no format fits the columns, or the recipe names a column that does not exist.
        """
        self.columns = [column for column in columns if column not in data.drop_columns]
        self.dropped, self.filtered = data.drop_columns, data.filter
        self.group_by = data.split.group_by
        self.name = data.format if data.format != "auto" else _recognised(data, self.columns, where, say, formats)
        self.format = formats[self.name]
        optional = [name for name in self.format.optional if data.columns.get(name, name) not in data.drop_columns]
        self.mapping = {name: data.columns.get(name, name) for name in (*self.format.columns, *optional)}
        self.system = data.system
        self._kinds: dict[str, tuple[str, str]] = {}
        """column -> kind of its cells, and place of the first row that has a cell"""
        self._example_template: tuple[template.Template, template.Template] | None = None
        """template of the text before the answer, and template of the answer with the text after it"""
        self._prompt_template: template.Template | None = None
        problems = [*self._column_problems(data, where), *self._template_problems(data)]
        named = {"data.drop_columns": data.drop_columns, "data.filter": data.filter}
        for key, names in named.items():
            problems += [_unknown(key, name, columns) for name in names if name not in columns]
        if self.group_by is not None and self.group_by not in self.columns:
            problems.append(_unknown("data.split.group_by", self.group_by, self.columns))
        if problems:
            raise UserError(*problems)

    def row(self, place: str, cells: Mapping[str, Any]) -> DataRow:
        """Return a row as an example.

        Args:
            place: file and line of the row.
            cells: the cells of the row, by the user's names of the columns.

        Raises:
            EmptyRowError: a cell that must have text is empty.
            BadRowError: the row does not fit the format, or a cell is of another kind than in earlier rows.
        """
        format_cells = {name: cells.get(column) for name, column in self.mapping.items()}
        self._check_sizes(cells)
        for name, column in self.mapping.items():
            kind = kind_of(format_cells[name])
            if kind and kind != (first := self._kinds.setdefault(column, (kind, place)))[0]:
                raise BadRowError(
                    f"'{column}' is {kind} here and {first[0]} in {first[1]}.", "Write it the same way in all rows."
                )
        # Rows with an empty cell have nothing in common, so they are no group.
        group = None if self.group_by is None else text_of(cells.get(self.group_by), self.group_by).strip() or None
        if self._example_template or (self._prompt_template and self.format.answer is None):
            return DataRow(tuple(self._raw_turns(cells, format_cells)), raw=True, place=place, group=group)
        turns = self._turns(format_cells)
        if self._prompt_template:
            turns[0] = Turn("user", self._prompt_template.fill(self._texts(cells, format_cells)))
        more = tuple(self.format.more({**self._others(cells), **format_cells}).items())
        return DataRow(tuple(turns), raw=self.name == "text", place=place, group=group, more=more)

    def _check_sizes(self, cells: Mapping[str, Any]) -> None:
        """Raise BadRowError if a cell that is used has more text than can be turned into tokens in a usual memory."""
        for column in self._used(cells):
            if (characters := size_of(cells.get(column))) > MAX_CELL_CHARACTERS:
                what = f"'{column}' has {characters:,} characters, and at most {MAX_CELL_CHARACTERS:,} can be read."
                raise BadRowError(what, "Divide it into several rows.")

    def unused_texts(self, cells: Mapping[str, Any]) -> list[str]:
        """Return the columns that have several words in a row, or other signs than ASCII, and are not used."""
        known = {*self._used(cells), *self.dropped, *self.filtered, self.group_by}
        texts = [name for name, cell in cells.items() if isinstance(cell, str) and name not in known]
        # A Chinese text has no spaces between its words.
        return [name for name in texts if len(cells[name].split()) > 1 or not cells[name].isascii()]

    def _used(self, cells: Mapping[str, Any]) -> dict[str, None]:
        """Return the columns that the example of a row is made of; some may be missing in this row."""
        templates = [part for part in (*(self._example_template or ()), self._prompt_template) if part]
        fields = (field for part in templates for field in part.fields)
        return dict.fromkeys((*self.mapping.values(), *fields, *self._others(cells)))

    def _others(self, cells: Mapping[str, Any]) -> dict[str, Any]:
        """Return the cells of all columns, if the format takes them; a row of JSON lines may lack some."""
        if not self.format.takes_all_columns:
            return {}
        return {
            name: cell for name, cell in {**dict.fromkeys(self.columns), **cells}.items() if name not in self.dropped
        }

    def unanswered(self, cells: Mapping[str, Any], row: DataRow) -> bool:
        """Tell whether the last question of a conversation has no answer and is therefore not in the example."""
        if not isinstance(self.format, Conversation):
            return False
        messages = cells[self.mapping[self.format.columns[0]]]
        last = messages[-1].get(self.format.role)
        return bool(last != row.turns[-1].role and str(last).lower() in ("user", "human"))

    def _raw_turns(self, cells: Mapping[str, Any], format_cells: Mapping[str, Any]) -> list[Turn]:
        """Return the turns that the recipe's template writes; no chat template is put around them."""
        texts = self._texts(cells, format_cells)
        if self._example_template is None:
            assert self._prompt_template is not None
            filled = self._prompt_template.fill(texts)
            if not any(texts[name].strip() for name in self._prompt_template.fields):
                raise EmptyRowError(self._prompt_template.fields[0])
            return [Turn("assistant", filled)]
        self._turns(format_cells)  # raises an error for empty cells
        before, answer = self._example_template
        return [Turn("user", before.fill(texts)), Turn("assistant", answer.fill(texts))]

    def _turns(self, format_cells: Mapping[str, Any]) -> list[Turn]:
        """Return the turns that the format finds in a row."""
        try:
            return list(self.format.turns(format_cells))
        except EmptyRowError as empty:  # give the user's name of the column
            raise EmptyRowError(self.mapping.get(empty.column, empty.column), empty.reason) from None

    def _texts(self, cells: Mapping[str, Any], format_cells: Mapping[str, Any]) -> dict[str, str]:
        """Return field -> text for the template; a field is the name of a column, the user's or the format's."""
        templates = self._example_template or (self._prompt_template,)
        values = {**cells, **format_cells, "system": self.system}
        return {name: text_of(values.get(name), name).strip() for part in templates if part for name in part.fields}

    def _column_problems(self, data: DataSection, where: str) -> list[Problem]:
        problems = []
        for name in data.columns:
            if name not in self.mapping:
                hint = did_you_mean(name, self.mapping)
                problems.append(Problem("data.columns", f"the format {self.name} has no column '{name}'.", hint))
        if self.name == "text" and data.template:
            return problems  # the template names the columns that are needed
        for name in (*self.format.columns, *(name for name in self.format.optional if name in data.columns)):
            column = data.columns.get(name, name)
            if column not in self.columns:
                hint = f"{did_you_mean(column, self.columns)} {MAP_HINT}"
                problems.append(Problem(where, f"there is no column '{column}'.", hint))
        used = list(self.mapping.values())
        if twice := next((column for column in used if used.count(column) > 1), None):
            problems.append(Problem("data.columns", f"the column '{twice}' is used twice."))
        return problems

    def _template_problems(self, data: DataSection) -> list[Problem]:
        if data.template is None:
            if self.name == "text" and data.system:
                return [
                    Problem("data.system", "is not used for plain text.", "Give a data.template with {system} in it.")
                ]
            return []
        if isinstance(self.format, Conversation):
            what = f"cannot be used for a conversation (format {self.name})."
            return [Problem(template.KEY, what, "Use data.chat_template to say how turns are written.")]
        known = [*self.columns, *(name for name, column in self.mapping.items() if column in self.columns)]
        parsed, problems = template.parse(data.template, dict.fromkeys(known), data.system)
        if parsed is None or problems:
            return problems
        answer = self.format.answer
        names = {answer, self.mapping.get(answer or "")} - {None}
        answers = [name for name in parsed.fields if name in names]
        if len(answers) > 1:
            return [Problem(template.KEY, f"names the answer, '{{{answers[0]}}}', more than once.")]
        if answers:
            self._example_template = parsed.split(answers[0])
        else:
            self._prompt_template = parsed
        if data.system and (self._example_template or answer is None) and "system" not in parsed.fields:
            what = "writes the whole example, but not the system message."
            return [Problem(template.KEY, what, "Put {system} into the template, or leave data.system out.")]
        return []


def _recognised(
    data: DataSection,
    columns: Sequence[str],
    where: str,
    say: Callable[[str], None],
    formats: Mapping[str, Format],
) -> str:
    """Return the name of the only format that fits the columns.

    Raises:
        UserError: no format fits, or several do.
    """
    possible = [name for name, form in formats.items() if set(data.columns) <= {*form.columns, *form.optional}]
    if len(possible) == 1:
        return possible[0]  # only this format has the columns that the user mapped
    format_names = {column: name for name, column in data.columns.items()}
    names = recognise([format_names.get(column, column) for column in columns], data.columns, formats)
    if len(names) == 1:
        say(f"data: format {names[0]} ({formats[names[0]].summary}), recognised from the columns")
        return names[0]
    if names:
        raise UserError.at(where, f"its columns fit several formats: {', '.join(names)}.", "Choose with data.format.")
    known = "; ".join(f"{name} ({', '.join(form.columns)})" for name, form in formats.items())
    what = f"its columns ({', '.join(columns) or 'none'}) fit no format."
    raise UserError.at(where, what, f"{MAP_HINT} Formats and their columns: {known}.")


def _unknown(key: str, name: str, columns: Sequence[str]) -> Problem:
    return Problem(key, f"there is no column '{name}'.", did_you_mean(name, columns))
