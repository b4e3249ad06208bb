"""The hooks that a plugin may implement, and the pluggy markers for them."""

from __future__ import annotations

import pluggy

PROJECT = "adapterzoo"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def adapterzoo_methods() -> list[object]:  # type: ignore[empty-body]  # a specification has no body
    """Return the adapter methods of this plugin, each an :class:`adapterzoo.Method`."""


@hookspec
def adapterzoo_metrics() -> list[object]:  # type: ignore[empty-body]
    """Return the metrics of this plugin, each an :class:`adapterzoo.Metric`."""


@hookspec
def adapterzoo_tasks() -> list[object]:  # type: ignore[empty-body]
    """Return the tasks of this plugin, each an :class:`adapterzoo.Task`."""


@hookspec
def adapterzoo_rewards() -> list[object]:  # type: ignore[empty-body]
    """Return the rewards of this plugin, each an :class:`adapterzoo.Reward`."""


@hookspec
def adapterzoo_quantizations() -> list[object]:  # type: ignore[empty-body]
    """Return the quantizations of this plugin, each an :class:`adapterzoo.Quantization`."""


HOOKS = tuple(name for name in dir() if name.startswith("adapterzoo_"))
