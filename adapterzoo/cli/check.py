"""``adapterzoo check``: every problem of a recipe, without training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from adapterzoo.cli.arguments import recipe_options
from adapterzoo.errors import UserError
from adapterzoo.machine.processes import set_threads
from adapterzoo.metrics.registry import right_or_wrong
from adapterzoo.terminal import count, duration, safe, size, stdout, tell

if TYPE_CHECKING:
    from adapterzoo.prepare.plan import Cell, MethodCell
    from adapterzoo.prepare.prepared import Prepared
    from adapterzoo.running.forecast import Expected, Forecast

# Bytes of a parameter, by dtype and, for linear layers, by quantization with its constants.
BYTES = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0, "int8": 1.01, "nf4": 0.52}
# float32 weight, gradient, and AdamW's two moments.
TRAINED_BYTES = 16


@click.command()
@recipe_options
@click.option(
    "--difference",
    type=click.FloatRange(min=0, min_open=True),
    help="Say how many test examples would show it, like 0.02 of exact match.",
)
@click.option("--probe", is_flag=True, help="Time two steps of each method; say what each cell and the run will take.")
def check(
    recipe: Path,
    methods: tuple[str, ...],
    seeds: tuple[int, ...],
    overrides: tuple[str, ...],
    difference: float | None,
    probe: bool,
) -> None:
    """Find every problem of RECIPE without training, and print the plan, and what its comparison can show."""
    from adapterzoo.recipe.reading import load_recipe
    from adapterzoo.running.progress import reporter

    if difference is not None and not difference < float("inf"):
        raise UserError.at(f"--difference {difference:g}", "is no difference.", "Give a number above 0.")
    checked = load_recipe(recipe, overrides)
    from adapterzoo.prepare.prepared import prepare
    from adapterzoo.tokens.show import length_summary

    begun, say = time.monotonic(), reporter().say
    # Only a process that has computed with one thread can be forked into ones that have several.
    prepared = prepare(checked, methods, seeds, say, partial(set_threads, 1) if probe else lambda: None)
    if difference is not None and difference >= 1 and right_or_wrong(prepared.recipe.evaluate.metrics[0]):
        raise UserError.at(
            f"--difference {difference:g}", "shares of answers never differ so much.", "Give one below 1."
        )
    console = stdout()
    encoded = prepared.encoded
    tell(console, f"{checked.name}: {checked.model.name}, {prepared.base_parameters:,} parameters")
    rows = f"{len(encoded.train)} train, {len(encoded.validation)} validation, {len(encoded.test)} test rows"
    tell(console, f"data: {rows}; {length_summary(encoded)}")
    batch = checked.train.batch_size * checked.train.gradient_accumulation
    tell(console, f"training: {prepared.steps} steps of {batch} rows")
    for line in _seeds(prepared):
        tell(console, line)
    if probe:
        from adapterzoo.running.forecast import forecast

        found = forecast(prepared, time.monotonic() - begun, say)
        console.print(_plan(prepared, found))
        for line in _expected(found):
            tell(console, line)
    else:
        console.print(_plan(prepared))
        cells = prepared.method_cells
        tell(console, f"{len(cells)} cells. memory: weights and optimizer; activations come on top.", "dim")
    for line in (*_tuning(prepared), *_sizes(prepared), *_power(prepared, difference)):
        tell(console, line)


def _seeds(prepared: Prepared) -> Iterator[str]:
    seeds = list(dict.fromkeys(cell.seed for cell in prepared.method_cells))
    if len(seeds) == 1:
        yield f"seed {seeds[0]}: one draw of how adapters begin, and one order of the rows, the same for every method"
    elif seeds:
        named = ", ".join(map(str, seeds))
        yield f"seeds {named}: each begins with other adapters and orders the rows anew, the same for every method"


def _plan(prepared: Prepared, found: Forecast | None = None) -> Table:
    """Return the cells with what they train; with what they will take, the untouched base too."""
    from adapterzoo.prepare.plan import MethodCell

    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    cells = prepared.cells if found else prepared.method_cells
    labelled = any(cell.label != cell.method for cell in prepared.method_cells)
    sized = any(cell.budget for cell in prepared.method_cells)
    titles = ["cell", *(["method"] if labelled else []), "seed", "quantization", "lr", *(["size"] if sized else [])]
    for title in (*titles, "parameters", *(["time", "memory"] if found else ["memory"])):
        left = title in ("cell", "method", "quantization", "size")
        table.add_column(title, no_wrap=True, justify="left" if left else "right")
    for cell in cells:
        trained, method = prepared.trainable.get(cell.label, 0), cell if isinstance(cell, MethodCell) else None
        values = (
            cell.label,
            *([method.method if method else "-"] if labelled else []),
            cell.seed,
            cell.quantization,
            f"{method.learning_rate:g}" if method else "-",
            *([_size(method) if method else "-"] if sized else []),
            _trained(method, trained) if method else "0",
            *(_takes(found.cells[cell.label]) if found else [size(_memory(prepared, cell, trained))]),
        )
        table.add_row(*(safe(value) for value in values))
    return table


def _trained(cell: MethodCell, parameters: int) -> str:
    """How many parameters a cell trains, marked where that is not the size that was asked for."""
    return (count(parameters) if parameters else "?") + ("!" if _misses(cell, parameters) else "")


def _takes(expected: Expected | str) -> tuple[str, str]:
    """The time and the memory that a cell will take."""
    if isinstance(expected, str):
        return "failed", "-"
    return duration(expected.seconds), size(expected.peak_bytes)


def _expected(found: Forecast) -> Iterator[str]:
    """What the whole run will take, and why it is not known of some cells."""
    together = f"{size(found.peak_bytes)} together at most"
    yield f"expected: {duration(found.seconds)} for the whole run, {found.how} at a time, {together}"
    for label, expected in found.cells.items():
        if isinstance(expected, str):
            yield f"! {label} failed when it was tried: {expected}"


def _memory(prepared: Prepared, cell: Cell, trained: int) -> float:
    """Bytes of the weights and the optimizer."""
    dtype, linear = prepared.recipe.model.dtype, prepared.linear_parameters
    memory = linear * BYTES[dtype if cell.quantization == "none" else cell.quantization] + trained * TRAINED_BYTES
    return memory + (prepared.base_parameters - linear) * BYTES[dtype]


def _size(cell: MethodCell) -> str:
    """The option that was solved for."""
    from adapterzoo.methods.registry import registry

    option = registry()[cell.method].size_option
    return f"{option} {cell.options[option]}" if option else "-"


def _misses(cell: MethodCell, trained: int) -> bool:
    from adapterzoo.prepare.budget import misses

    return bool(trained) and misses(trained, cell.budget)


def _tuning(prepared: Prepared) -> Iterator[str]:
    """What is tried before, and by what it is judged."""
    from adapterzoo.prepare.settings import points

    once = {cell.label: cell for cell in prepared.method_cells if cell.ranges}
    if not once:
        return
    # Ranges may hold fewer settings than are asked for.
    many = {label: len(points(cell)) for label, cell in once.items()}
    options = ", ".join(dict.fromkeys(option for cell in once.values() for option in cell.ranges))
    metric, rows = prepared.recipe.evaluate.metrics[0], len(prepared.encoded.validation)
    each = " or ".join(map(str, sorted(set(many.values()))))
    yield f"tuning: {each} settings of {options} for each method, {sum(many.values())} trainings more"
    yield f"each judged by {metric} on {rows} validation rows"
    left = [cell.label for cell in prepared.method_cells if prepared.recipe.tune and not cell.ranges]
    if left:
        yield f"not tuned, for want of such options: {', '.join(dict.fromkeys(left))}"


def _sizes(prepared: Prepared) -> Iterator[str]:
    """What cannot have the size that is asked for, and what does not fit."""
    from adapterzoo.machine.memory import available

    once = {cell.label: cell for cell in prepared.method_cells}.values()
    missed = [cell.label for cell in once if _misses(cell, prepared.trainable.get(cell.label, 0))]
    if missed:
        wanted = count(next(cell.budget for cell in once if cell.budget) or 0)
        yield f"! {', '.join(missed)}: as near to {wanted} parameters as it comes"
    for cell in once:
        if reason := prepared.unknown_sizes.get(cell.label):
            default = ", with the size of its defaults" if cell.budget else ""
            yield f"? {cell.label}: its size is not known before the weights are loaded{default} ({reason})"
    room = available()
    for cell in once:
        needed = _memory(prepared, cell, prepared.trainable.get(cell.label, 0))
        if needed > room:
            yield f"{cell.label} needs at least {size(needed)}, and {size(room)} are free"


def _power(prepared: Prepared, difference: float | None) -> Iterator[str]:
    """What so many test examples and seeds can show."""
    from adapterzoo.comparison import power

    labels = list(dict.fromkeys(cell.label for cell in prepared.cells))
    seeds = len({cell.seed for cell in prepared.method_cells}) or 1
    examples, methods = len(prepared.encoded.test), len({cell.label for cell in prepared.method_cells})
    families = [max(many, 1) for many in (len(labels) - 1, len(labels) * (len(labels) - 1) // 2)]
    metric = prepared.recipe.evaluate.metrics[0]
    shares = right_or_wrong(metric)
    unit = "" if shares else " standard deviations of the difference between two methods' scores of an example"
    found = [power.smallest_difference(examples, seeds, methods, many, shares=shares) for many in families]
    many = f"{examples} test examples and {seeds} {'seed' if seeds == 1 else 'seeds'}"
    named, any_two = (f"{one:.3f}{unit}" if one is not None else "no size" for one in found)
    yield (
        f"{many} can show a difference of {named} in {metric} to a row named beforehand (--against), "
        f"of {any_two} between any two of {len(labels)} rows (found in {power.POWER:.0%} of such runs"
        + (
            f", if two methods disagree on {power.DISAGREE:.0%} of the answers, or as many as that takes)"
            if shares
            else ")"
        )
    )
    if seeds == 1:
        yield "with one seed, intervals are over the examples alone: another seed may lie outside"
    if difference:
        named, any_two = (_needed(difference, seeds, methods, many, shares) for many in families)
        yield f"a difference of {difference:g} to a row named beforehand takes {named}; between any two, {any_two}"


def _needed(difference: float, seeds: int, rows: int, comparisons: int, shares: bool) -> str:
    """The test examples that show a difference, and the seeds where these are too few."""
    from adapterzoo.comparison.power import examples_needed

    for many in range(seeds, 1000):
        if (examples := examples_needed(difference, many, rows, comparisons, shares=shares)) is not None:
            return f"{examples:,} test examples" + (f" and {many} seeds" if many > seeds else "")
    return "more than a thousand seeds"
