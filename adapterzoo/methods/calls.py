"""Call the functions of a method, and check what they return: a method may be anybody's code."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import PluginError, Problem
from adapterzoo.methods.contract import Context, Method

if TYPE_CHECKING:
    from torch import nn


def checked_wrap(method: Method[Any], model: nn.Module, options: Any, context: Context) -> nn.Module:
    """Call :meth:`Method.wrap`, and check that it returns a model.

    Raises:
        PluginError: it returned something else.
    """
    from torch.nn import Module

    wrapped = method.wrap(model, options, context)
    if not isinstance(wrapped, Module):
        raise PluginError(f"wrap() of {method.name} returned {wrapped!r}, not a model")
    return wrapped


def load_adapter(method: Method[Any], model: nn.Module, folder: Path, options: Any, context: Context) -> nn.Module:
    """Call :meth:`Method.load`; a method that was written for contract 3 takes no options and no context.

    Raises:
        PluginError: it returned something else than a model.
    """
    from torch.nn import Module

    takes_all = len(inspect.signature(method.load).parameters) > 2
    loaded = method.load(model, folder, *((options, context) if takes_all else ()))
    if not isinstance(loaded, Module):
        raise PluginError(f"load() of {method.name} returned {loaded!r}, not a model")
    return loaded


def find_problems(method: Method[Any], skeleton: nn.Module, options: Any, context: Context) -> list[Problem]:
    """Call :meth:`Method.problems`, and check that it returns a list of problems.

    Raises:
        PluginError: it raised an error, or returned something else.
    """
    try:
        problems = method.problems(skeleton, options, context)
    except (Exception, SystemExit) as error:  # third-party code may raise anything
        raise PluginError(f"problems() of {method.name} raised {type(error).__name__}: {error}") from error
    if not isinstance(problems, list) or not all(isinstance(problem, Problem) for problem in problems):
        raise PluginError(f"problems() of {method.name} returned {problems!r}, not a list of problems")
    return problems
