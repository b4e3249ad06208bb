"""``adapterzoo plugin quantization``: check a quantization, and keep which methods were seen to train on it."""

from __future__ import annotations

import datetime
import json
import sys
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import click

from adapterzoo.cli.plugin_capabilities import LIBRARIES
from adapterzoo.cli.plugin_check import chosen_methods, usable
from adapterzoo.cli.plugin_pool import in_pool
from adapterzoo.errors import UserError
from adapterzoo.files import write_atomically
from adapterzoo.methods.trainable import FILE, QuantizationRecord, read_records
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.terminal import safe, stderr, stdout

if TYPE_CHECKING:
    from adapterzoo.conformance.quantization import Look


@click.command()
@click.argument("quantization", metavar="QUANTIZATION")
@click.argument("names", nargs=-1, metavar="[METHOD]...")
@click.option("--all", "everything", is_flag=True, help="Try every method of the zoo.")
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"File to write; {FILE} in the package of the quantization, or of the method, decides what recipes may use.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Processes that run at the same time [one per core].")
def quantization(
    quantization: str, names: tuple[str, ...], everything: bool, to: Path | None, jobs: int | None
) -> None:
    """Check that QUANTIZATION is sound, and which methods METHOD... train on it.

    Two tiny models are quantized, used and turned back. Then each method is trained on one of them, saved and loaded.
    """
    where = f"plugin quantization {quantization}"
    usable(where, quantization)
    if quantizations()[quantization].only_checkpoints:
        raise UserError.at(where, "is only for models that come quantized.", "Run a recipe with such a model.")
    chosen = chosen_methods(where, names, everything) if names or everything else []
    (looks,) = in_pool(_look, [quantization], _look_died, 1)
    for look in looks:
        _show(look)
    if any(look.problems for look in looks):
        sys.exit(1)
    if not chosen:
        return
    found = {}
    for name, verdict in zip(chosen, in_pool(partial(_try, quantization), chosen, _died, jobs), strict=True):
        found[name] = verdict
        stdout().print(safe(f"{name}: {'trains' if verdict is True else verdict}"), soft_wrap=True)
        if to is not None:
            _keep(to, quantization, found)


def _show(look: Look) -> None:
    """Print what was seen of the quantization on one model."""
    for problem in look.problems:
        stderr().print(safe(f"{look.architecture}: {problem}", "red"), soft_wrap=True)
    if not look.problems:
        undone = f"undoing it moves them by {look.undone_change:.1g}"
        what = f"it moves the logits by {look.change:.2g} of their standard deviation; {undone}"
        text = f"{look.architecture}: sound; {look.bytes_per_parameter:.2f} bytes a weight; {what}"
        stdout().print(safe(text), soft_wrap=True)


def _keep(to: Path, quantization: str, found: dict[str, bool | str]) -> None:
    """Write the verdicts, beside those of other quantizations, and of other methods with the same versions.

    Raises:
        UserError: the file cannot be read or written.
    """
    packages = [*LIBRARIES, *quantizations()[quantization].packages]
    versions = {name: metadata.version(name) for name in dict.fromkeys(packages)}
    try:
        records = read_records(to) if to.exists() else {}
    except ValueError:
        hint = "Remove it, or give another name."
        raise UserError.at(f"--to {to}", "is there already, and is no file of quantizations.", hint) from None
    earlier = records.get(quantization)
    kept = earlier["methods"] if earlier and earlier["versions"] == versions else {}
    records[quantization] = QuantizationRecord(
        date=datetime.date.today().isoformat(), versions=versions, methods=dict(sorted({**kept, **found}.items()))
    )
    try:
        write_atomically(to, json.dumps(dict(sorted(records.items())), indent=1, ensure_ascii=False) + "\n")
    except OSError as error:
        raise UserError.at(f"--to {to}", f"cannot be written: {error.strerror}.") from None


def _look(name: str) -> list[Look]:
    """Look at a quantization, in a process of its own."""
    from adapterzoo.conformance.quantization import look_at

    return look_at(name)


def _look_died(name: str) -> list[Look]:
    from adapterzoo.conformance.quantization import Look

    return [Look("both models", ["the process died: it used too much memory, or the quantization's code ended it"])]


def _try(quantization: str, name: str) -> bool | str:
    """Try a method on a quantization, in a process of its own."""
    from adapterzoo.conformance.quantization import try_method_on

    return try_method_on(name, quantization)


def _died(name: str) -> str:
    """Return the verdict on a method that ended its process."""
    return "the process died: it used too much memory, or the method's own code ended it"
