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
from adapterzoo.prepare.plan import MethodCell
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
    cells = list({cell.label: cell for cell in prepared.method_cells}.values())
    # In processes of their own: what a method changes in its libraries must not be there for any row.
    works = [partial(_try_cell, prepared, cell, untouched, zoo[cell.method]) for cell in cells]
    outcomes = {
        cell.label: _outcome(cell, tried, zoo) for cell, tried in zip(cells, apart(works, cores()), strict=True)
    }
    for label, outcome in outcomes.items():
        problems += [Problem(f"{label}: {problem.where}", problem.what, problem.hint) for problem in outcome.problems]
    if problems:
        raise UserError(*problems)
    planned = [
        replace(cell, options=options)
        if isinstance(cell, MethodCell) and (options := outcomes[cell.label].options) is not None
        else cell
        for cell in prepared.cells
    ]
    return replace(
        prepared,
        cells=planned,
        trainable={label: tried.trainable for label, tried in outcomes.items() if tried.trainable is not None},
        unknown_sizes={label: tried.why_unknown for label, tried in outcomes.items() if tried.trainable is None},
    )


class Outcome(NamedTuple):
    """What came of trying a method on a model without weights."""

    problems: list[Problem]
    trainable: int | None = None
    """number of parameters that it would train; None where there are problems, or only real weights can tell"""
    why_unknown: str = ""
    """why that number is not known"""
    options: dict[str, Any] | None = None
    """those that the budget asks for"""


def _outcome(cell: MethodCell, tried: Outcome | Exception, zoo: Registry) -> Outcome:
    """Return what came of trying a cell in a process of its own.

    Raises:
        Exception: what the process raised and is no fault of the method's plugin.
    """
    if isinstance(tried, ProcessEndedError):  # the method ends its process: its cell will report that
        return Outcome([], why_unknown=str(tried))
    if isinstance(tried, PluginError):
        return Outcome([Problem(zoo.package(cell.method), f"its plugin is at fault: {tried}.")])
    if isinstance(tried, Exception):
        raise tried
    return tried


def _try_cell(prepared: Prepared, cell: MethodCell, untouched: Base, method: Method[Any]) -> Outcome:
    """Try a cell's method with its options, sized to the budget, and with every setting that it is to be tuned by."""
    # Without data: what a method would learn from it takes weights.
    context = replace(prepared.context(cell), batches=tuple)
    problems = []
    if prepared.encoded.packs and method.prepends_tokens:
        what = "puts something in front of every row, and packed rows have only one front."
        problems.append(Problem("data.packing", f"{method.name} {what}", "Leave it out, or do not pack."))
    options, sized = method.options(**cell.options), None
    attempt = partial(try_method, method, untouched, context=context)
    if cell.budget is not None:
        count_of = partial(_trainable, attempt)
        options = solve(method, options, cell.budget, count_of, divisors(_widths(untouched.model)))
        sized = options.model_dump(mode="json")
    found = attempt(options=options)
    problems += [*found.problems, *_untunable(cell, options, found.trainable, attempt)]
    return Outcome(problems, found.trainable, found.why_unknown, sized)


def _trainable(attempt: Callable[..., Outcome], options: Any) -> int | None:
    return attempt(options=options).trainable


def _widths(skeleton: nn.Module) -> list[int]:
    """How many features the linear layers take and give."""
    return [size for layer in linear_layers(skeleton).values() for size in features(layer)]


def _untunable(
    cell: MethodCell, sized: Options, count: int | None, attempt: Callable[..., Outcome]
) -> list[Problem]:
    """Return what is wrong with the settings to be tried: they cannot work, or have not the budget's size."""
    for settings in points(cell):
        tried = {name: value for name, value in settings.items() if name != LEARNING_RATE}
        if not tried:
            return []
        shown = ", ".join(f"{name} {value}" for name, value in tried.items())
        try:
            outcome = attempt(options=type(sized)(**{**sized.model_dump(mode="json"), **tried}))
        except ValidationError as error:
            return [Problem("tune", f"{shown}: {error.errors()[0]['msg']}.", "Leave it out of the range.")]
        if outcome.problems:
            return [Problem("tune", f"{shown}: {problem}") for problem in outcome.problems]
        if cell.budget is not None and outcome.trainable != count:
            return [Problem("tune", f"{shown} changes the size, which the budget sets.", "Leave one of them out.")]
    return []


def try_method(method: Method[Any], skeleton: Base, options: Any, context: Context) -> Outcome:
    """Try a method on an architecture: report what cannot work, and else how many parameters it would train.

    Args:
        method: which.
        skeleton: the model without weights.
        options: the method's.
        context: the cell's, without batches.

    Raises:
        PluginError: the method does not do what the contract says.
    """
    import torch

    if problems := find_problems(method, skeleton.model, options, context):
        return Outcome(problems)
    try:
        with skeleton.borrow() as model, torch.device("meta"):
            wrapped = checked_wrap(method, model, options, context)
            return Outcome([], sum(p.numel() for p in wrapped.parameters() if p.requires_grad))
    except ValueError as error:  # what PEFT, and anyone, says of sizes and layers that do not fit
        return Outcome([Problem("options", " ".join(str(error).split())[:300])])
    except (Exception, SystemExit) as error:  # it starts from real weights, or is broken: its cell will report that
        return Outcome([], why_unknown=f"{type(error).__name__}: {' '.join(str(error).split())[:150]}")
