"""``adapterzoo check``: find every problem of a recipe without training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from adapterzoo.cli.arguments import recipe_options
from adapterzoo.errors import UserError
from adapterzoo.machine.processes import set_threads
from adapterzoo.metrics.registry import right_or_wrong
from adapterzoo.terminal import count, counted, duration, operations, safe, size, stdout, tell

if TYPE_CHECKING:
    from adapterzoo.prepare.needs import Needs
    from adapterzoo.prepare.plan import Cell, MethodCell
    from adapterzoo.prepare.prepared import Prepared
    from adapterzoo.running.forecast import Expected, Forecast


@click.command()
@recipe_options
@click.option(
    "--difference",
    type=click.FloatRange(min=0, min_open=True),
    help="Print how many test examples are needed to show this difference of the first metric, like 0.02.",
)
@click.option(
    "--probe",
    is_flag=True,
    help="Time two steps of each method; print the expected time and memory of each cell and of the run.",
)
def check(
    recipe: Path,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    overrides: tuple[str, ...],
    difference: float | None,
    probe: bool,
) -> None:
    """Find every problem of RECIPE without training.

    Then print the plan, and the smallest differences between methods that the run can show.
    """
    from adapterzoo.recipe.reading import load_recipe
    from adapterzoo.running.progress import reporter

    if difference is not None and not difference < float("inf"):
        raise UserError.at(f"--difference {difference:g}", "is not a difference.", "Give a number above 0.")
    checked = load_recipe(recipe, overrides)
    from adapterzoo.model.placing import DISK
    from adapterzoo.prepare.estimate import estimates
    from adapterzoo.prepare.prepare import prepare
    from adapterzoo.running import room
    from adapterzoo.tokens.show import length_summary

    started, say = time.monotonic(), reporter().say
    # The probe forks this process. The child processes can use several threads only if this one has used only one.
    prepared = prepare(checked, methods, seeds, say, partial(set_threads, 1) if probe else lambda: None)
    preparing = time.monotonic() - started  # what a run does too, without the estimates below
    if difference is not None and difference >= 1 and right_or_wrong(prepared.recipe.evaluate.metrics[0]):
        raise UserError.at(
            f"--difference {difference:g}", "is too large for shares of right answers.", "Give a number below 1."
        )
    console = stdout()
    encoded = prepared.encoded
    tell(console, f"{checked.name}: {checked.model.name}, {prepared.base_parameters:,} parameters")
    if prepared.kept is not None:
        tell(console, f"weights: {_kept(prepared.kept)}")
        if checked.model.offload_folder is not None and DISK not in prepared.kept:
            tell(console, "nothing is kept in model.offload_folder, because no weight is on the disk")
    rows = f"{len(encoded.train)} train, {len(encoded.validation)} validation, {len(encoded.test)} test rows"
    tell(console, f"data: {rows}; {length_summary(encoded)}")
    batch = checked.train.batch_size * checked.train.gradient_accumulation
    tell(console, f"training: {counted(prepared.steps, 'step')} of {counted(batch, 'row')}")
    for line in (*_seeds(prepared), *_reach(prepared)):
        tell(console, line)
    needs = estimates(prepared)
    if probe:
        from adapterzoo.running.forecast import forecast

        expected = forecast(prepared, preparing, say)
        console.print(_plan(prepared, needs, expected))
        for line in _expected(expected):
            tell(console, line)
    else:
        console.print(_plan(prepared, needs))
        what = "of the longest rows, padded, computed without weights; compute: of all training steps"
        tell(console, f"{counted(len(prepared.method_cells), 'cell')}. memory: {what}", "dim")
    tell(console, f"disk: about {size(room.needed(prepared, prepared.cells))} for results and checkpoints", "dim")
    for line in (*_tuning(prepared), *_sizes(prepared, needs), *_power(prepared, difference)):
        tell(console, line)


def _kept(kept: Mapping[int | str, int]) -> str:
    """Return how much of the base model each place keeps, as one text."""
    from adapterzoo.model.placing import called

    return ", ".join(f"{size(amount)} {called(place)}" for place, amount in kept.items())


def _seeds(prepared: Prepared) -> Iterator[str]:
    """Yield a line that says what the seeds decide."""
    seeds = list(dict.fromkeys(cell.seed for cell in prepared.method_cells))
    if len(seeds) == 1:
        yield f"seed {seeds[0]} decides the initial weights of the adapters and the order of the rows, for every method"
    elif seeds:
        named = ", ".join(map(str, seeds))
        yield f"seeds {named}: each gives every method other initial weights and another order of the rows"


def _reach(prepared: Prepared) -> Iterator[str]:
    """Yield lines on how much of the model the methods reach."""
    from adapterzoo.methods.registry import registry

    for reach in prepared.reach:
        yield str(reach)
    experts = max((reach.missed_experts for reach in prepared.reach), default=0.0)
    if experts:
        able = [name for name in registry() if "target_parameters" in registry()[name].options.model_fields]
        what = f"fused experts hold {experts:.0%} of the parameters, and target_modules does not reach them"
        yield f"! {what}. Methods with target_parameters: all-experts reach them: {', '.join(able)}"


def _plan(prepared: Prepared, needs: Mapping[str, Needs | str], forecast: Forecast | None = None) -> Table:
    """Return the table of the cells; a forecast adds the expected time and memory, and the base."""
    from adapterzoo.prepare.plan import MethodCell

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    cells = prepared.cells if forecast else prepared.method_cells
    labelled = any(cell.label != cell.method for cell in prepared.method_cells)
    sized = any(cell.budget for cell in prepared.method_cells)
    titles = ["cell", *(["method"] if labelled else []), "seed", "quantization", "lr", *(["size"] if sized else [])]
    for title in (*titles, "parameters", *(["time", "memory"] if forecast else ["compute", "memory"])):
        left = title in ("cell", "method", "quantization", "size")
        table.add_column(title, no_wrap=True, justify="left" if left else "right")
    for cell in cells:
        trained, method_cell = prepared.trainable.get(cell.label), cell if isinstance(cell, MethodCell) else None
        values = (
            cell.label,
            *([method_cell.method if method_cell else "-"] if labelled else []),
            cell.seed,
            cell.quantization,
            f"{method_cell.learning_rate:g}" if method_cell else "-",
            *([_size(method_cell) if method_cell else "-"] if sized else []),
            _trained(method_cell, trained) if method_cell else "0",
            *(
                _time_and_memory(forecast.cells[cell.label])
                if forecast
                else _computed(prepared, cell, needs[cell.label])
            ),
        )
        table.add_row(*(safe(value) for value in values))
    return table


def _trained(cell: MethodCell, parameters: int | None) -> str:
    """Return the number of parameters that a cell trains, ``!`` if that misses the budget; ``?`` if not known."""
    return ("?" if parameters is None else count(parameters)) + ("!" if _misses(cell, parameters or 0) else "")


def _time_and_memory(expected: Expected | str) -> tuple[str, str]:
    """Return the expected time and memory of a cell as texts."""
    if isinstance(expected, str):
        return "failed", "-"
    return duration(expected.seconds), size(expected.peak_bytes)


def _expected(forecast: Forecast) -> Iterator[str]:
    """Yield lines on the expected time and memory of the run, and on the cells that failed in the probe."""
    memory = f"at most {size(forecast.peak_bytes)} of memory"
    yield f"expected: {duration(forecast.seconds)} for the whole run, {forecast.concurrency} cells at a time, {memory}"
    for label, expected in forecast.cells.items():
        if isinstance(expected, str):
            yield f"! {label} failed in the probe: {expected}"


def _computed(prepared: Prepared, cell: Cell, needs: Needs | str) -> tuple[str, str]:
    """Return the floating-point operations of a cell's training and its memory as texts."""
    if isinstance(needs, str):
        return "?", f">{size(_least(prepared, cell, needs))}"
    train = prepared.recipe.train
    steps = prepared.steps * train.gradient_accumulation * train.devices
    return operations(needs.step.operations * steps), size(_least(prepared, cell, needs))


def _least(prepared: Prepared, cell: Cell, needs: Needs | str) -> float:
    """Return the bytes that a cell needs, as far as they are known."""
    from adapterzoo.prepare.estimate import least_bytes

    return least_bytes(prepared, cell) if isinstance(needs, str) else needs.peak_bytes


def _size(cell: MethodCell) -> str:
    """Return the option that the budget sets, with its value."""
    from adapterzoo.methods.registry import registry

    option = registry()[cell.method].size_option
    return f"{option} {cell.options[option]}" if option else "-"


def _misses(cell: MethodCell, trained: int) -> bool:
    """Tell whether a cell's number of trained parameters is known and misses its budget."""
    from adapterzoo.prepare.budget import misses

    return bool(trained) and misses(trained, cell.budget)


def _tuning(prepared: Prepared) -> Iterator[str]:
    """Yield lines on which options are tuned, and how."""
    from adapterzoo.prepare.settings import points

    tuned = {cell.label: cell for cell in prepared.method_cells if cell.ranges}
    if not tuned:
        return
    # A list of values may be shorter than the number of trials.
    settings = {label: len(points(cell)) for label, cell in tuned.items()}
    options = ", ".join(dict.fromkeys(option for cell in tuned.values() for option in cell.ranges))
    metric, rows = prepared.recipe.evaluate.metrics[0], len(prepared.encoded.validation)
    each = " or ".join(map(str, sorted(set(settings.values()))))
    yield f"tuning: {each} settings of {options} for each method, {sum(settings.values())} more trainings"
    yield f"each setting is scored by {metric} on {rows} validation rows"
    untuned = [cell.label for cell in prepared.method_cells if prepared.recipe.tune and not cell.ranges]
    if untuned:
        yield f"not tuned, because they have no such option: {', '.join(dict.fromkeys(untuned))}"


def _sizes(prepared: Prepared, needs: Mapping[str, Needs | str]) -> Iterator[str]:
    """Yield lines on the methods that miss the budget, have an unknown size, or need more memory than is free."""
    from adapterzoo.machine.memory import available

    cells = {cell.label: cell for cell in prepared.method_cells}.values()
    missed = [cell.label for cell in cells if _misses(cell, prepared.trainable.get(cell.label, 0))]
    if missed:
        wanted = count(next(cell.budget for cell in cells if cell.budget) or 0)
        yield f"! {', '.join(missed)}: the nearest possible size misses the budget of {wanted} parameters"
    for cell in cells:
        if reason := prepared.unknown_sizes.get(cell.label):
            default = "; it keeps its default size" if cell.budget else ""
            yield f"? {cell.label}: its size is not known before the weights are loaded{default} ({reason})"
    free = available()
    for cell in cells:
        found = needs[cell.label]
        if isinstance(found, str):
            yield f"? {cell.label}: only the memory of its weights and its optimizer is known ({found})"
        if (needed := _least(prepared, cell, found)) > free:
            yield f"{cell.label} needs at least {size(needed)} of memory, but {size(free)} are free"


def _power(prepared: Prepared, difference: float | None) -> Iterator[str]:
    """Yield lines on the differences that the test examples and seeds of a run can show."""
    from adapterzoo.comparison import power

    labels = list(dict.fromkeys(cell.label for cell in prepared.cells))
    seeds = len({cell.seed for cell in prepared.method_cells}) or 1
    examples, methods = len(prepared.encoded.test), len({cell.label for cell in prepared.method_cells})
    # The numbers of comparisons to correct for: with the row named before the run, and between any two rows.
    comparisons = [max(pairs, 1) for pairs in (len(labels) - 1, len(labels) * (len(labels) - 1) // 2)]
    metric = prepared.recipe.evaluate.metrics[0]
    shares = right_or_wrong(metric)
    unit = "" if shares else " standard deviations (of the difference between two methods' scores of an example)"
    smallest = [power.smallest_difference(examples, seeds, methods, pairs, shares=shares) for pairs in comparisons]
    named, any_two = ("" if value is None else f"of {value:.3f}{unit}" for value in smallest)
    shown = f"{counted(examples, 'test example')} and {counted(seeds, 'seed')} can show"
    assumed = f" if two methods disagree on {power.DISAGREE:.0%} of the answers, or on more if the difference needs it"
    if named:
        yield (
            f"{shown} a difference {named} in {metric} to a row named before the run (--against), "
            f"and {any_two or 'none'} between any two of {len(labels)} rows"
        )
        yield f"{power.POWER:.0%} of such runs show a difference of that size{assumed if shares else ''}"
    else:
        yield f"{shown} no difference in {metric}, however large"
    if seeds == 1:
        yield "with one seed, intervals are over the test examples only: the score of another seed may be outside"
    if difference:
        named, any_two = (_needed(difference, seeds, methods, pairs, shares) for pairs in comparisons)
        yield (
            f"a difference of {difference:g} to a row named before the run needs {named}; "
            f"between any two rows, it needs {any_two}"
        )


def _needed(difference: float, seeds: int, rows: int, comparisons: int, shares: bool) -> str:
    """Return how many test examples show a difference; if it takes more seeds than are given, also how many seeds."""
    from adapterzoo.comparison.power import examples_needed

    for number in range(seeds, 1000):
        if (examples := examples_needed(difference, number, rows, comparisons, shares=shares)) is not None:
            return f"{examples:,} test examples" + (f" and {number} seeds" if number > seeds else "")
    return "at least a thousand seeds"
