"""The shapes that rows of data come in: one small file each, chosen by name or recognised from the columns.

A format turns the cells of a row into the turns of a conversation. Each module here has one, named ``FORMAT``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Collection
from importlib import import_module

from adapterzoo.formats._format import Conversation, Format, Pair

__all__ = ["FORMATS", "Conversation", "Format", "Pair", "recognise"]

FORMATS: dict[str, Format] = {
    module.name: import_module(f"{__name__}.{module.name}").FORMAT
    for module in pkgutil.iter_modules(__path__)
    if not module.name.startswith("_")
}


def recognise(columns: Collection[str], mapped: Collection[str] = ()) -> list[Format]:
    """The formats whose columns are all there, of those the ones that know most; several where it cannot be told.

    Args:
        columns: of the data, under the names that formats use.
        mapped: those that the user has mapped on purpose: only formats that know them all are meant.
    """
    there = set(columns)
    fit = [
        form
        for form in FORMATS.values()
        if there >= set(form.columns) and set(mapped) <= {*form.columns, *form.optional}
    ]
    # A column named text or input often stands beside those that say more.
    known = [len(there & {*form.columns, *form.optional}) for form in fit]
    return [form for form, columns in zip(fit, known, strict=True) if columns == max(known)]
