"""``adapterzoo plugin capabilities``: try what methods can do, and keep what was seen in a file of their package."""

from __future__ import annotations

import datetime
import json
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from adapterzoo.cli.plugin_check import chosen_methods
from adapterzoo.cli.plugin_pool import in_pool
from adapterzoo.errors import UserError
from adapterzoo.files import write_atomically
from adapterzoo.methods.capabilities import COLUMNS, FILE, Record
from adapterzoo.methods.registry import registry
from adapterzoo.terminal import safe, stderr

LIBRARIES = ("torch", "transformers", "peft", "bitsandbytes")
"""packages whose versions may change what works"""


@click.command()
@click.argument("names", nargs=-1, metavar="NAME...")
@click.option("--all", "everything", is_flag=True, help="Try every method of the zoo.")
@click.option(
    "--to",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help=f"File to write; {FILE} in your package is found by `adapterzoo methods`.",
)
@click.option("--jobs", type=click.IntRange(min=1), help="Processes that run at the same time [one per core].")
def capabilities(names: tuple[str, ...], everything: bool, to: Path, jobs: int | None) -> None:
    """Try what the methods NAME... can do, and write it to a file.

    They are used on tiny models: with each quantization, for each type of task, merged, exported, resumed, compiled.
    Records of other methods stay in the file if they were made with the same versions of the libraries, and so do those
    of what needs a package that is not installed (DeepSpeed).
    """
    chosen = chosen_methods("plugin capabilities", names, everything)
    content: dict[str, Any] = {"date": "", "versions": {name: metadata.version(name) for name in LIBRARIES}}
    content["methods"] = _kept(to, content["versions"])
    for name, record in zip(chosen, in_pool(_try, chosen, _died, jobs), strict=True):
        found = {**content["methods"].get(name, {}), **record}  # what needs an absent package was not tried again
        content["methods"][name] = {column: found[column] for column in COLUMNS if column in found}
        content["methods"] = dict(sorted(content["methods"].items()))
        content["date"] = datetime.date.today().isoformat()
        try:
            write_atomically(to, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        except OSError as error:
            raise UserError.at(f"--to {to}", f"cannot be written: {error.strerror}.") from None
        works = sum(value is True for value in record.values())
        stderr().print(safe(f"{name}: {works} of {len(record)} capabilities", "dim"), soft_wrap=True)


def _kept(file: Path, versions: dict[str, str]) -> dict[str, Record]:
    """Return the records in a file if they were made with these versions of the libraries."""
    if not file.exists():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return dict(content["methods"]) if content["versions"] == versions else {}
    except (OSError, ValueError, KeyError, TypeError):
        hint = "Remove it, or give another name."
        raise UserError.at(f"--to {file}", "is there already, and is no file of capabilities.", hint) from None


def _try(name: str) -> Record:
    """Try a method, in a process of its own."""
    from adapterzoo.conformance.capabilities import try_method

    return try_method(registry()[name])


def _died(name: str) -> Record:
    """Return the record of a method that ended its process."""
    return dict.fromkeys(COLUMNS, "the process died: it used too much memory, or the method's own code ended it")
