"""One recipe, every adapter method, one table you can trust."""

from __future__ import annotations

from adapterzoo.api import run
from adapterzoo.comparison import Comparison, compare
from adapterzoo.errors import AdapterzooError, NotFiniteError, PluginError, Problem, UserError
from adapterzoo.hookspecs import hookimpl
from adapterzoo.layers import LayerMethod, features, linear_layers, targeted
from adapterzoo.method import Context, LinearOptions, Method, Options
from adapterzoo.metric import Metric
from adapterzoo.peft_method import PeftMethod
from adapterzoo.reading import load_recipe
from adapterzoo.recipe import Recipe

__all__ = [
    "AdapterzooError",
    "Comparison",
    "Context",
    "LayerMethod",
    "LinearOptions",
    "Method",
    "Metric",
    "NotFiniteError",
    "Options",
    "PeftMethod",
    "PluginError",
    "Problem",
    "Recipe",
    "UserError",
    "compare",
    "features",
    "hookimpl",
    "linear_layers",
    "load_recipe",
    "run",
    "targeted",
]
