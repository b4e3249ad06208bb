"""The hooks of adapterzoo's plugins, and the markers for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from adapterzoo.method import Method
    from adapterzoo.metric import Metric

PROJECT = "adapterzoo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def adapterzoo_methods() -> list[Method[Any]]:  # type: ignore[empty-body]  # a specification has no body
    """The adapter methods that this plugin brings."""


@hookspec
def adapterzoo_metrics() -> list[Metric]:  # type: ignore[empty-body]
    """The metrics that this plugin brings."""


HOOKS = tuple(name for name in dir() if name.startswith("adapterzoo_"))
