"""Every method on the model without its weights: what cannot work, what it would train, the size of the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from adapterzoo.errors import PluginError, Problem, ProcessEndedError, UserError
from adapterzoo.machine.processes import apart, cores
from adapterzoo.methods.contract import Context, Method, Options, checked_wrap, find_problems
from adapterzoo.methods.layers import features, linear_layers
from adapterzoo.methods.registry import Registry
from adapterzoo.prepare.budget import divisors, solve
from adapterzoo.prepare.plan import Cell
from adapterzoo.prepare.settings import LEARNING_RATE, points

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.model.base import Base
    from adapterzoo.prepare.prepared import Prepared


def dry_run(prepared: Prepared, skeleton: nn.Module, zoo: Registry) -> Prepared:
    """Ask the trainer and each method what cannot work, size it to the budget, and count what it would train.

    Raises:
        UserError: with the problems of all of them.
    """
    from adapterzoo.model.base import Base
    from adapterzoo.training.arguments import check_settings

    problems = check_settings(prepared.recipe.train, prepared.steps)
    if prepared.recipe.train.eval_steps and not prepared.encoded.validation:
        problems.append(Problem("train.eval_steps", "there are no validation rows.", "Give split.validation a share."))
    if prepared.recipe.tune and not prepared.encoded.validation:
        problems.append(Problem("tune", "there are no validation rows to choose by.", "Give split.validation a share."))
    wanted = prepared.recipe.budget.trainable_params if prepared.recipe.budget else 0
    if wanted > prepared.base_parameters:
        what = f"{wanted:.3g} is more than the {prepared.base_parameters:,} parameters of the model."
        problems.append(Problem("budget.trainable_params", what, "Give a part of them."))
        raise UserError(*problems)
    untouched = Base(skeleton, "none", lambda: skeleton)
    sized: dict[str, dict[str, Any]] = {}
    cells = list({cell.label: cell for cell in prepared.cells if cell.method}.values())
    # In processes of their own: what a method changes in its libraries must not be there for any row.
    works = [partial(_try_cell, prepared, cell, untouched, zoo[cell.method or ""]) for cell in cells]
    for cell, tried in zip(cells, apart(works, cores()), strict=True):
        if isinstance(tried, ProcessEndedError):  # a method that ends its process: its cell will tell
            continue
        if isinstance(tried, PluginError):
            tried = _Tried([Problem(zoo.package(cell.method or ""), f"its plugin is at fault: {tried}.")])
        if isinstance(tried, Exception):
            raise tried
        problems += [Problem(f"{cell.label}: {one.where}", one.what, one.hint) for one in tried.problems]
        if tried.trainable is not None:
            prepared.trainable[cell.label] = tried.trainable
        if tried.options is not None:
            sized[cell.label] = tried.options
    if problems:
        raise UserError(*problems)
    planned = [replace(cell, options=sized.get(cell.label, cell.options)) for cell in prepared.cells]
    return replace(prepared, cells=planned)


class _Tried(NamedTuple):
    """What came of trying a cell's method."""

    problems: list[Problem]
    trainable: int | None = None
    """how many parameters it would train; None where there are problems, or only real weights can tell"""
    options: dict[str, Any] | None = None
    """those that the budget asks for"""


def _try_cell(prepared: Prepared, cell: Cell, untouched: Base, method: Method[Any]) -> _Tried:
    """Try a cell's method with its options, sized to the budget, and with every setting that it is to be tuned by."""
    # Without data: what a method would learn from it takes weights.
    context = replace(prepared.context(cell), batches=tuple)
    problems = []
    if prepared.encoded.packs and method.prepends_tokens:
        what = "puts something in front of every row, and packed rows have only one front."
        problems.append(Problem("data.packing", f"{method.name} {what}", "Leave it out, or do not pack."))
    options, sized = method.options(**cell.options), None
    if cell.budget is not None:
        count_of = partial(_trained, method, untouched, context)
        options = solve(method, options, cell.budget, count_of, divisors(_widths(untouched.model)))
        sized = options.model_dump(mode="json")
    found, count = try_method(method, untouched, options, context)
    found += _untunable(cell, options, count, partial(try_method, method, untouched, context=context))
    return _Tried([*problems, *found], count, sized)


def _widths(skeleton: nn.Module) -> list[int]:
    """How many features the linear layers take and give."""
    return [size for layer in linear_layers(skeleton).values() for size in features(layer)]


def _untunable(
    cell: Cell, sized: Options, count: int | None, attempt: Callable[..., tuple[list[Problem], int | None]]
) -> list[Problem]:
    """Settings to be tried that cannot work, or that are not of the size that the budget asks for."""
    for settings in points(cell):
        tried = {name: value for name, value in settings.items() if name != LEARNING_RATE}
        if not tried:
            return []
        shown = ", ".join(f"{name} {value}" for name, value in tried.items())
        try:
            problems, there = attempt(options=type(sized)(**{**sized.model_dump(mode="json"), **tried}))
        except ValidationError as error:
            return [Problem("tune", f"{shown}: {error.errors()[0]['msg']}.", "Leave it out of the range.")]
        if problems:
            return [Problem("tune", f"{shown}: {problem}") for problem in problems]
        if cell.budget is not None and there != count:
            return [Problem("tune", f"{shown} changes the size, which the budget sets.", "Leave one of them out.")]
    return []


def _trained(method: Method[Any], skeleton: Base, context: Context, options: Any) -> int | None:
    return try_method(method, skeleton, options, context)[1]


def try_method(method: Method[Any], skeleton: Base, options: Any, context: Context) -> tuple[list[Problem], int | None]:
    """What cannot work with a method on an architecture, and else how many parameters it would train.

    Args:
        skeleton: the model without weights.

    Returns:
        The problems, and the number; None where there are problems, or only real weights can tell.

    Raises:
        PluginError: the method does not do what the contract says.
    """
    import torch

    if found := find_problems(method, skeleton.model, options, context):
        return found, None
    try:
        with skeleton.borrow() as model, torch.device("meta"):
            wrapped = checked_wrap(method, model, options, context)
            return [], sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
    except ValueError as error:  # what PEFT, and anyone, says of sizes and layers that do not fit
        return [Problem("options", " ".join(str(error).split())[:300])], None
    except (Exception, SystemExit):  # a method that starts from real weights, or one that is broken: its cell will tell
        return [], None
