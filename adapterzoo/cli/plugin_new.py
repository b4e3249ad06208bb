"""``adapterzoo plugin new``: a package for a new method."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from importlib.resources.abc import Traversable
from keyword import iskeyword
from pathlib import Path
from string import Template

import click

from adapterzoo.errors import UserError
from adapterzoo.methods.contract import CONTRACT
from adapterzoo.methods.registry import NAME, registry
from adapterzoo.terminal import safe, stdout


@click.command()
@click.argument("name")
@click.option(
    "--to",
    "parent",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the folder goes [.].",
)
def new(name: str, parent: Path) -> None:
    """Write a package for a method called NAME, which installs and passes the check as it is."""
    if not NAME.fullmatch(name):
        raise UserError.at(f"plugin new {name}", "a method's name has lower-case letters, digits and '-' only.")
    if name in registry():
        taken = f"there is a method of that name, from {registry().package(name)}."
        raise UserError.at(f"plugin new {name}", taken, "Choose another.")
    package = f"adapterzoo-{name}"
    folder = parent / package
    if folder.exists():
        raise UserError.at(str(folder), "is there already.", "Remove it, or give --to another folder.")
    module = package.replace("-", "_")
    class_name = "".join(part.capitalize() for part in name.split("-"))
    if not class_name.isidentifier() or iskeyword(class_name):
        class_name = f"Method{class_name}"
    values = {
        "name": name,
        "package": package,
        "module": module,
        "class_name": class_name,
        "contract": CONTRACT,
        "version": version("adapterzoo"),
    }
    for path, text in _templates(files("adapterzoo") / "template"):
        target = folder / path.replace("module.py", f"{module}.py")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(Template(text).substitute(values), encoding="utf-8")
    console = stdout()
    console.print(safe(f"{folder} is a package with the method '{name}'. Next:"), soft_wrap=True)
    console.print(safe(f"  pip install --editable {folder}"), soft_wrap=True)
    console.print(safe(f"  adapterzoo plugin check {name}"), soft_wrap=True)
    console.print(safe(f"Then make {folder / module}.py your own."), soft_wrap=True)


def _templates(folder: Traversable, before: str = "") -> Iterator[tuple[str, str]]:
    """The files of the template: their paths and their texts."""
    for entry in folder.iterdir():
        path = f"{before}{entry.name}"
        if entry.is_dir():
            yield from _templates(entry, f"{path}/")
        else:
            yield path.removesuffix(".in"), entry.read_text(encoding="utf-8")
