"""Arguments and options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
method_option = click.option(
    "-m",
    "--method",
    "methods",
    multiple=True,
    metavar="METHOD",
    help="Use only the method with this label or name (repeatable).",
)
seed_option = click.option(
    "--seed", "seeds", multiple=True, type=click.IntRange(min=0), help="Use only this seed (repeatable)."
)
set_option = click.option(
    "--set",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Override a key of the recipe, like train.steps=10 (repeatable).",
)
out_option = click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder for the results [runs/<name>]."
)

trust_option = click.option(
    "--trust-remote-code",
    is_flag=True,
    help="Run code that comes with the base model, if the run did; only if you trust its authors.",
)


def recipe_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument RECIPE and the options that select and override parts of it."""
    for decorate in (set_option, seed_option, method_option, recipe_argument):
        command = decorate(command)
    return command
