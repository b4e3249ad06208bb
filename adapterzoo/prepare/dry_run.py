"""Try every method on the model without its weights: find what cannot work, count parameters, solve the budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from pydantic import ValidationError

from adapterzoo.errors import PluginError, Problem, ProcessEndedError, UserError
from adapterzoo.machine.limits import TooLongError, stopped_after
from adapterzoo.machine.memory import BYTES_PER_TRAINED_PARAMETER, total
from adapterzoo.machine.processes import cores, in_processes
from adapterzoo.methods.calls import checked_wrap, find_problems
from adapterzoo.methods.contract import Context, Method, Options
from adapterzoo.methods.registry import Registry
from adapterzoo.methods.targets import features, linear_layers
from adapterzoo.model.head import adapter_size
from adapterzoo.prepare.budget import divisors, solve
from adapterzoo.prepare.plan import MethodCell
from adapterzoo.prepare.settings import LEARNING_RATE, points
from adapterzoo.terminal import count, size

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.model.base import Base
    from adapterzoo.prepare.prepared import Prepared

MAX_WRAP_SECONDS = 300  # of the processor, for putting an adapter on a model without weights


def dry_run(prepared: Prepared, skeleton: nn.Module, zoo: Registry) -> Prepared:
    """Find what the trainer or a method cannot do, fit methods to the budget, and count the parameters they train.

    Args:
        prepared: the run so far.
        skeleton: the model without its weights.
        zoo: the installed methods.

    Returns:
        The run, with options that meet the budget and the number of parameters of each method.

    Raises:
        UserError: the trainer or methods have problems; all of them are listed.
    """
    from adapterzoo.model.base import Base
    from adapterzoo.training.arguments import check_settings

    problems = check_settings(prepared.recipe.train, prepared.steps)
    if prepared.recipe.train.eval_steps and not prepared.encoded.validation:
        problems.append(Problem("train.eval_steps", "there are no validation rows.", "Give split.validation a share."))
    if prepared.recipe.tune and not prepared.encoded.validation:
        problems.append(Problem("tune", "there are no validation rows to choose by.", "Give split.validation a share."))
    if prepared.recipe.train.batch_size < (smallest := prepared.encoded.smallest_batch):
        what = f"the loss compares the rows of a batch, and with {prepared.recipe.train.batch_size} nothing is learned."
        problems.append(Problem("train.batch_size", what, f"Set it to {smallest} or more."))
    own_loss = not prepared.encoded.trainer_computes_loss
    if own_loss and prepared.recipe.train.arguments.get("label_smoothing_factor"):
        what = f"'label_smoothing_factor' changes the model's own loss, and the task {prepared.task.name} has another."
        problems.append(Problem("train.arguments", what, "Leave it out."))
    wanted = prepared.recipe.budget.trainable_params if prepared.recipe.budget else 0
    if wanted > prepared.base_parameters:
        what = f"{wanted:.3g} is more than the {prepared.base_parameters:,} parameters of the model."
        problems.append(Problem("budget.trainable_params", what, "Give a smaller number."))
        raise UserError(*problems)
    untouched = Base(skeleton, "none", lambda: skeleton)
    cells = list({cell.label: cell for cell in prepared.method_cells}.values())
    # Try each method in its own process, because what it changes in its libraries must not affect any row.
    attempts = [partial(_try_cell, prepared, cell, untouched, zoo[cell.method]) for cell in cells]
    outcomes = {
        cell.label: _outcome(cell, answer, zoo)
        for cell, answer in zip(
            cells, in_processes(attempts, cores(), time_limit=prepared.recipe.train.time_limit), strict=True
        )
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
        trainable={label: outcome.trainable for label, outcome in outcomes.items() if outcome.trainable is not None},
        unknown_sizes={label: outcome.why_unknown for label, outcome in outcomes.items() if outcome.trainable is None},
    )


class Outcome(NamedTuple):
    """The result of trying a method on a model without weights."""

    problems: list[Problem]
    trainable: int | None = None
    """number of parameters that the method would train; None if there are problems or if it takes weights to know it"""
    why_unknown: str = ""
    """why the number of parameters is not known"""
    options: dict[str, Any] | None = None
    """options that meet the budget; None if the recipe has no budget"""


def _outcome(cell: MethodCell, answer: Outcome | Exception, zoo: Registry) -> Outcome:
    """Return the outcome of trying a cell, also if its process raised an exception or ended early.

    Raises:
        Exception: the exception that the process raised, if it is not the fault of the method's plugin.
    """
    if isinstance(answer, ProcessEndedError):  # the method ends its process: the cell will report that
        return Outcome([], why_unknown=str(answer))
    if isinstance(answer, PluginError):
        return Outcome([Problem(zoo.package(cell.method), f"its plugin has an error: {answer}.")])
    if isinstance(answer, Exception):
        raise answer
    return answer


def _try_cell(prepared: Prepared, cell: MethodCell, untouched: Base, method: Method[Any]) -> Outcome:
    """Try a cell's method with its options, which are fitted to the budget, and with every setting of its tuning."""
    # Give the method no data, because it needs weights to learn from data.
    context = replace(prepared.context(cell), batches=tuple)
    problems = []
    if prepared.recipe.data.packing and method.prepends_tokens:
        what = f"{method.name} puts tokens in front of every row, which is not possible for rows packed together."
        problems.append(Problem("data.packing", what, "Leave the method out, or do not pack."))
    options, sized = method.options(**cell.options), None
    attempt = partial(_try_to_fit, method, untouched, context=context)
    if cell.budget is not None:
        count_of = partial(_trainable, partial(try_method, method, untouched, context=context))
        options = solve(method, options, cell.budget, count_of, divisors(_widths(untouched.get_model())))
        sized = options.model_dump(mode="json")
    outcome = attempt(options=options)
    problems += [*outcome.problems, *_tuning_problems(cell, options, outcome.trainable, attempt)]
    return Outcome(problems, outcome.trainable, outcome.why_unknown, sized)


def _try_to_fit(method: Method[Any], skeleton: Base, options: Any, context: Context) -> Outcome:
    """Do the same as :func:`try_method`, and find an adapter that cannot fit into the memory of this machine."""
    outcome = try_method(method, skeleton, options, context)
    # Do not refuse an adapter that is smaller than its base model: this may be a check for a larger machine.
    if outcome.trainable is None or outcome.trainable <= skeleton.parameters:
        return outcome
    needed, memory = outcome.trainable * BYTES_PER_TRAINED_PARAMETER, total()
    if needed <= memory:
        return outcome
    what = (
        f"{count(outcome.trainable)} parameters would be trained, and the model has {count(skeleton.parameters)}. "
        f"They need {size(needed)} of memory, and this machine has {size(memory)}."
    )
    return outcome._replace(problems=[Problem(method.size_option or "options", what, "Make the adapter smaller.")])


def _trainable(attempt: Callable[..., Outcome], options: Any) -> int | None:
    return attempt(options=options).trainable


def _widths(skeleton: nn.Module) -> list[int]:
    """Return the numbers of input and output features of the linear layers."""
    return [size for layer in linear_layers(skeleton).values() for size in features(layer)]


def _tuning_problems(
    cell: MethodCell, fitted: Options, count: int | None, attempt: Callable[..., Outcome]
) -> list[Problem]:
    """Return the problems of the first setting of tuning that cannot work, or that changes the number of parameters."""
    for settings in points(cell):
        options = {name: value for name, value in settings.items() if name != LEARNING_RATE}
        if not options:
            return []
        shown = ", ".join(f"{name} {value}" for name, value in options.items())
        try:
            outcome = attempt(options=type(fitted)(**{**fitted.model_dump(mode="json"), **options}))
        except ValidationError as error:
            return [Problem("tune", f"{shown}: {error.errors()[0]['msg']}.", "Leave it out of the range.")]
        if outcome.problems:
            return [Problem("tune", f"{shown}: {problem}") for problem in outcome.problems]
        if cell.budget is not None and outcome.trainable != count:
            hint = "Leave the option out of tune, or leave the budget out."
            return [Problem("tune", f"{shown} changes the size, which the budget sets.", hint)]
    return []


def try_method(method: Method[Any], skeleton: Base, options: Any, context: Context) -> Outcome:
    """Try a method on a model without weights; return its problems or the number of parameters it would train.

    Args:
        method: the method.
        skeleton: the model without weights.
        options: the method's options.
        context: the cell's context, without batches.

    Raises:
        PluginError: the method does not do what the contract says.
    """
    import torch

    if problems := find_problems(method, skeleton.get_model(), options, context):
        return Outcome(problems)
    try:
        with stopped_after(MAX_WRAP_SECONDS), skeleton.borrow() as model, torch.device("meta"):
            wrapped = checked_wrap(method, model, options, context)
            return Outcome([], adapter_size(wrapped, model))
    except TooLongError:
        what = f"it takes more than {MAX_WRAP_SECONDS} seconds to put the adapter on the model."
        return Outcome([Problem("options", what, "Perhaps a pattern for names of layers takes too long: simplify it.")])
    except (Exception, SystemExit) as error:
        text = " ".join(str(error).split())
        # PEFT and others raise ValueError if sizes or layers do not fit; for kinds of layers, some raise TypeError.
        if isinstance(error, ValueError) or (isinstance(error, TypeError) and text.startswith("Target module")):
            return Outcome([Problem("options", text[:300])])
        # It needs real weights, or it is broken: its cell will report that.
        return Outcome([], why_unknown=f"{type(error).__name__}: {text[:150]}")
