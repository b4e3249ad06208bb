"""The one hook of adapterzoo's plugins, and the markers for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from adapterzoo.method import Method

PROJECT = "adapterzoo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def adapterzoo_methods() -> list[Method[Any]]:  # type: ignore[empty-body]  # a specification has no body
    """The adapter methods that this plugin brings."""
