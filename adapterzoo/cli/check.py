"""``adapterzoo check``: find every problem of a recipe without training."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapterzoo.cli.arguments import recipe_options
from adapterzoo.cli.check_cells import cell_table, expected_lines, size_lines
from adapterzoo.cli.check_power import power_lines
from adapterzoo.errors import UserError
from adapterzoo.machine.processes import set_threads
from adapterzoo.metrics.registry import right_or_wrong
from adapterzoo.terminal import counted, size, stdout, tell

if TYPE_CHECKING:
    from adapterzoo.prepare.prepared import Prepared


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
        console.print(cell_table(prepared, needs, expected))
        for line in expected_lines(expected):
            tell(console, line)
    else:
        console.print(cell_table(prepared, needs))
        what = "of the longest rows, padded, computed without weights; compute: of all training steps"
        tell(console, f"{counted(len(prepared.method_cells), 'cell')}. memory: {what}", "dim")
    tell(console, f"disk: about {size(room.needed(prepared, prepared.cells))} for results and checkpoints", "dim")
    for line in (*_tuning(prepared), *size_lines(prepared, needs), *power_lines(prepared, difference)):
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
