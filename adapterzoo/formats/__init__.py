"""The shapes that rows of data come in: one small file each, chosen by name or recognised from the columns.

A format turns the cells of a row into the turns of a conversation. Each module that has one names it ``FORMAT``.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Collection
from importlib import import_module

from adapterzoo.formats._format import Conversation, Format, Pair

__all__ = ["FORMATS", "Conversation", "Format", "Pair", "recognise"]

FORMATS: dict[str, Format] = {
    name: module.FORMAT
    for name in (found.name for found in pkgutil.iter_modules(__path__))
    if hasattr(module := import_module(f"{__name__}.{name}"), "FORMAT")
}


def recognise(columns: Collection[str], mapped: Collection[str] = ()) -> list[str]:
    """The formats whose columns are all there, of those the ones that know most; several where it cannot be told.

    Args:
        columns: of the data, under the names that formats use.
        mapped: those that the user has mapped on purpose: only formats that know them all are meant.
    """
    there = set(columns)
    # How many columns each knows: one named text or input often stands beside those that say more.
    fit = {
        name: len(there & {*form.columns, *form.optional})
        for name, form in FORMATS.items()
        if there >= set(form.columns) and set(mapped) <= {*form.columns, *form.optional}
    }
    return [name for name, known in fit.items() if known == max(fit.values())]
