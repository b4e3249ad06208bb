"""``data.template``: a text with ``{column}`` in it, filled from each row."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from string import Formatter

from adapterzoo.errors import Problem, did_you_mean

PLACE = "data.template"


class Template:
    """A text with fields. ``{{`` and ``}}`` stand for braces."""

    def __init__(self, text: str) -> None:
        """Take a template apart.

        Raises:
            ValueError: a brace is never closed, or a field is more than a name.
        """
        self.parts: list[tuple[str, str | None]] = []
        """a text, and the field that follows it; the last has none"""
        for before, name, form, conversion in Formatter().parse(text):
            if name is not None and (form or conversion or not name.strip() or name.strip() != name):
                raise ValueError(f"'{{{name}{'!' + conversion if conversion else ''}{':' + form if form else ''}}}'")
            self.parts.append((before, name))

    @property
    def fields(self) -> list[str]:
        """The names in it, in order; one that is used twice is there twice."""
        return [name for _, name in self.parts if name is not None]

    def fill(self, values: Mapping[str, str]) -> str:
        """The text of one row."""
        return "".join(before + (values[name] if name is not None else "") for before, name in self.parts)

    def split(self, field: str) -> tuple[Template, Template]:
        """What stands before a field, and what from it on."""
        at = next(index for index, (_, name) in enumerate(self.parts) if name == field)
        first, second = Template(""), Template("")
        first.parts = [*self.parts[:at], (self.parts[at][0], None)]
        second.parts = [("", field), *self.parts[at + 1 :]]
        return first, second


def parse(text: str, columns: Collection[str], system: str | None) -> tuple[Template | None, list[Problem]]:
    """A template, and what is wrong with it.

    Args:
        columns: what may stand in it.
        system: the recipe's system message, which it may name as ``{system}``.
    """
    try:
        template = Template(text)
    except ValueError as error:
        reason = str(error)
        what = f"is not a template: {reason} is no column's name." if reason.startswith("'") else f"{reason}."
        return None, [Problem(PLACE, what, "Write {column}, and {{ }} for braces themselves.")]
    known = [*columns, *(["system"] if system else [])]
    problems = [
        Problem(PLACE, f"names '{{{name}}}', and there is no such column.", did_you_mean(name, known))
        for name in dict.fromkeys(template.fields)
        if name not in known
    ]
    if not template.fields:
        problems.append(Problem(PLACE, "names no column: every row would be the same.", did_you_mean("", known)))
    return template, problems
