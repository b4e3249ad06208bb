"""Train a language model with every adapter method by one recipe, and compare them in one table."""

from __future__ import annotations

from adapterzoo.api.adapters import export, generate, merge
from adapterzoo.api.comparing import compare, evaluate, evaluate_tasks, run
from adapterzoo.comparison import Comparison
from adapterzoo.errors import AdapterzooError, NotFiniteError, PluginError, Problem, UserError
from adapterzoo.formats import Format
from adapterzoo.hookspecs import hookimpl
from adapterzoo.methods.contract import Context, LinearOptions, Method, Options
from adapterzoo.methods.experts import expert_names, expert_problems
from adapterzoo.methods.inserts import InsertMethod, block_ends, transformer_layers
from adapterzoo.methods.layers import CONFIG, WEIGHTS, LayerMethod
from adapterzoo.methods.layers import trained_parameters as trained
from adapterzoo.methods.peft import PeftMethod
from adapterzoo.methods.registry import registry
from adapterzoo.methods.targets import features, linear_layers, targeted
from adapterzoo.metrics.contract import ColumnStyle, Metric
from adapterzoo.quantizations.contract import Quantization
from adapterzoo.recipe.reading import load_recipe
from adapterzoo.recipe.schema import Recipe
from adapterzoo.rewards.contract import Reward
from adapterzoo.tasks.contract import Task
from adapterzoo.tasks.evaluation import Evaluation, Prediction
from adapterzoo.tasks.examples import Examples, ModelForm

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "AdapterzooError",
    "ColumnStyle",
    "Comparison",
    "Context",
    "Evaluation",
    "Examples",
    "Format",
    "InsertMethod",
    "LayerMethod",
    "LinearOptions",
    "Method",
    "Metric",
    "ModelForm",
    "NotFiniteError",
    "Options",
    "PeftMethod",
    "PluginError",
    "Prediction",
    "Problem",
    "Quantization",
    "Recipe",
    "Reward",
    "Task",
    "UserError",
    "block_ends",
    "compare",
    "evaluate",
    "evaluate_tasks",
    "expert_names",
    "expert_problems",
    "export",
    "features",
    "generate",
    "hookimpl",
    "linear_layers",
    "load_recipe",
    "merge",
    "registry",
    "run",
    "targeted",
    "trained",
    "transformer_layers",
]
