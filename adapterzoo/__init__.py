"""One recipe, every adapter method, one table you can trust."""

from __future__ import annotations

from adapterzoo.errors import AdapterzooError, NotFiniteError, PluginError, Problem, UserError
from adapterzoo.hookspecs import hookimpl
from adapterzoo.method import Context, LinearOptions, Method, Options, PeftMethod, linear_layers

__all__ = [
    "AdapterzooError",
    "Context",
    "LinearOptions",
    "Method",
    "NotFiniteError",
    "Options",
    "PeftMethod",
    "PluginError",
    "Problem",
    "UserError",
    "hookimpl",
    "linear_layers",
]
