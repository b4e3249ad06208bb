"""``adapterzoo plugin new``: write a package for a new method or a new task."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from keyword import iskeyword
from pathlib import Path
from string import Template
from typing import Any

import click

from adapterzoo.entry_points import PluginRegistry
from adapterzoo.errors import UserError
from adapterzoo.methods.contract import CONTRACT
from adapterzoo.methods.registry import NAME, registry
from adapterzoo.tasks.registry import tasks
from adapterzoo.terminal import safe, stdout


@click.command()
@click.argument("name")
@click.option(
    "--to",
    "parent",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder to write the package in [.].",
)
@click.option("--task", "kind", flag_value="task", help="Write a package for a task.")
def new(name: str, parent: Path, kind: str | None) -> None:
    """Write a package for a method, or for a task, called NAME.

    It can be installed, and passes its check, without changes.
    """
    kind = kind or "method"
    if not NAME.fullmatch(name):
        raise UserError.at(f"plugin new {name}", f"a {kind}'s name has lower-case letters, digits and '-' only.")
    known: PluginRegistry[Any] = tasks() if kind == "task" else registry()
    if name in known:
        what = f"there is already a {kind} of that name, from {known.package(name)}."
        raise UserError.at(f"plugin new {name}", what, "Choose another name.")
    package = f"adapterzoo-{name}"
    folder = parent / package
    if folder.exists():
        raise UserError.at(str(folder), "already exists.", "Remove it, or give --to another folder.")
    module = package.replace("-", "_")
    class_name = "".join(part.capitalize() for part in name.split("-"))
    if not class_name.isidentifier() or iskeyword(class_name):
        class_name = f"{kind.capitalize()}{class_name}"
    values = {
        "name": name,
        "package": package,
        "module": module,
        "class_name": class_name,
        "column": name.replace("-", "_"),
        "contract": CONTRACT,
        "version": version("adapterzoo"),
    }
    for path, text in _templates(files("adapterzoo") / "template" / kind):
        target = folder / path.replace("module.py", f"{module}.py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(text).substitute(values), encoding="utf-8")
    console = stdout()
    check = f"pytest {folder}" if kind == "task" else f"adapterzoo plugin check {name}"
    console.print(safe(f"The package {folder} has the {kind} '{name}'. Next:"), soft_wrap=True)
    console.print(safe(f"  pip install --editable {folder}"), soft_wrap=True)
    console.print(safe(f"  {check}"), soft_wrap=True)
    console.print(safe(f"Then put your own idea into {folder / module}.py."), soft_wrap=True)


def _templates(folder: Traversable, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield the path and the text of each file of the template."""
    for entry in folder.iterdir():
        path = f"{prefix}{entry.name}"
        if entry.is_dir():
            yield from _templates(entry, f"{path}/")
        else:
            yield path.removesuffix(".in"), entry.read_text(encoding="utf-8")
