"""The formats of data rows: one small file each, chosen by name or recognised from the columns.

A format turns the cells of a row into the turns of a conversation. Its module binds it to the name ``FORMAT``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Collection, Mapping
from importlib import import_module

from adapterzoo.formats._format import Conversation, Format, Pair

__all__ = ["FORMATS", "Conversation", "Format", "Pair", "recognise"]

FORMATS: dict[str, Format] = {
    name: module.FORMAT
    for name in (info.name for info in pkgutil.iter_modules(__path__))
    if hasattr(module := import_module(f"{__name__}.{name}"), "FORMAT")
}


def recognise(
    columns: Collection[str], mapped: Collection[str] = (), formats: Mapping[str, Format] = FORMATS
) -> list[str]:
    """Return the names of the formats that fit the columns best: several if they fit equally well, none if none fits.

    A format fits if the data has all the columns that it needs. It fits best if it knows more of the data's columns
    than the others.

    Args:
        columns: the columns of the data, under the names that formats use.
        mapped: the columns that the user mapped; a format that lacks one of them does not fit.
        formats: the formats to choose from.
    """
    present = set(columns)
    # Count the columns that each format knows, because a column named text or input may also be part of other data.
    known = {
        name: len(present & {*form.columns, *form.optional})
        for name, form in formats.items()
        if present >= set(form.columns) and set(mapped) <= {*form.columns, *form.optional}
    }
    return [name for name, count in known.items() if count == max(known.values())]
