"""The table of a run's cells that ``adapterzoo check`` prints, and the lines on single cells below it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.table import Table

from adapterzoo.terminal import count, duration, operations, safe, size

if TYPE_CHECKING:
    from adapterzoo.prepare.needs import Needs
    from adapterzoo.prepare.plan import Cell, MethodCell
    from adapterzoo.prepare.prepared import Prepared
    from adapterzoo.running.forecast import Expected, Forecast


def cell_table(prepared: Prepared, needs: Mapping[str, Needs | str], forecast: Forecast | None = None) -> Table:
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


def expected_lines(forecast: Forecast) -> Iterator[str]:
    """Yield lines on the expected time and memory of the run, and on the cells that failed in the probe."""
    memory = f"at most {size(forecast.peak_bytes)} of memory"
    yield f"expected: {duration(forecast.seconds)} for the whole run, {forecast.concurrency} cells at a time, {memory}"
    for label, expected in forecast.cells.items():
        if isinstance(expected, str):
            yield f"! {label} failed in the probe: {expected}"


def size_lines(prepared: Prepared, needs: Mapping[str, Needs | str]) -> Iterator[str]:
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


def _trained(cell: MethodCell, parameters: int | None) -> str:
    """Return the number of parameters that a cell trains, ``!`` if that misses the budget; ``?`` if not known."""
    return ("?" if parameters is None else count(parameters)) + ("!" if _misses(cell, parameters or 0) else "")


def _time_and_memory(expected: Expected | str) -> tuple[str, str]:
    """Return the expected time and memory of a cell as texts."""
    if isinstance(expected, str):
        return "failed", "-"
    return duration(expected.seconds), size(expected.peak_bytes)


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
