"""Parse and fill ``data.template``: a text in which ``{column}`` stands for the row's value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from string import Formatter

from adapterzoo.errors import Problem, did_you_mean

KEY = "data.template"


class Template:
    """A text with fields in braces; ``{{`` and ``}}`` stand for braces themselves."""

    def __init__(self, text: str) -> None:
        """Parse the text of a template.

        Raises:
            ValueError: a brace is never closed, or a field has more than a name, such as ``{name!r}``.
        """
        self.parts: list[tuple[str, str | None]] = []
        """pairs of a text and the field that follows it, which is None after the last text"""
        for before, name, form, conversion in Formatter().parse(text):
            if name is not None and (form or conversion or not name.strip() or name.strip() != name):
                raise ValueError(f"'{{{name}{'!' + conversion if conversion else ''}{':' + form if form else ''}}}'")
            self.parts.append((before, name))

    @property
    def fields(self) -> list[str]:
        """Return the names of the fields in order; a field that is used twice is listed twice."""
        return [name for _, name in self.parts if name is not None]

    def fill(self, values: Mapping[str, str]) -> str:
        """Return the text with the row's values in place of the fields."""
        return "".join(before + (values[name] if name is not None else "") for before, name in self.parts)

    def split(self, field: str) -> tuple[Template, Template]:
        """Return the template before a field, and the template from that field on."""
        position = next(index for index, (_, name) in enumerate(self.parts) if name == field)
        first, second = Template(""), Template("")
        first.parts = [*self.parts[:position], (self.parts[position][0], None)]
        second.parts = [("", field), *self.parts[position + 1 :]]
        return first, second


def parse(text: str, columns: Collection[str], system: str | None) -> tuple[Template | None, list[Problem]]:
    """Return the parsed template, or None, and the problems in it.

    Args:
        text: the template.
        columns: the columns that it may name.
        system: the recipe's system message, if there is one; the template may name it as ``{system}``.
    """
    try:
        template = Template(text)
    except ValueError as error:
        reason = str(error)  # a field in quotes, or a message of Python's own parser
        what = f"is not a template: {reason} is not the name of a column." if reason.startswith("'") else f"{reason}."
        return None, [Problem(KEY, what, "Write {column} for a value, and {{ }} for braces.")]
    known = [*columns, *(["system"] if system else [])]
    problems = [
        Problem(KEY, f"names '{{{name}}}', and there is no such column.", did_you_mean(name, known))
        for name in dict.fromkeys(template.fields)
        if name not in known
    ]
    if not template.fields:
        problems.append(Problem(KEY, "names no column: every row would be the same.", did_you_mean("", known)))
    return template, problems
