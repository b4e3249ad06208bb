"""``adapterzoo init``: write a first recipe for a data file."""

from __future__ import annotations

from pathlib import Path

import click

from adapterzoo.errors import UserError
from adapterzoo.terminal import stderr, tell


@click.command()
@click.argument("data")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="Recipe file to write [<data>.yaml].")
@click.option("--model", help="Base model: a hub id, a folder, or a bundled name.")
def init(data: str, out: Path | None, model: str | None) -> None:
    """Write a commented recipe for DATA, and a schema by which editors complete and check it.

    DATA is a file, a saved dataset or a hub id. Print what was guessed about it, and how sure each guess is.
    """
    from adapterzoo.recipe.files import find_source
    from adapterzoo.recipe.json_schema import FILE, MODELINE, TITLE, schema_text
    from adapterzoo.starter import DEFAULT_MODEL, starter

    names, problem = find_source(data, Path.cwd())
    if problem is not None:
        raise UserError.at(data, problem.what, problem.hint)
    if len(names) != 1:
        raise UserError.at(
            data, f"names {len(names)} files.", "Give one of them. In the recipe, data.source can name all."
        )
    path = out or Path(f"{Path(names[0]).stem}.yaml")
    if path.exists():
        raise UserError.at(str(path), "already exists.", "Give --out another name.")
    if not path.parent.is_dir():
        raise UserError.at(str(path), f"there is no folder '{path.parent}'.", "Make it first, or give another --out.")
    # The recipe names the data as the user did, if that also works from the folder of the recipe.
    same = find_source(data, path.parent)[0] == names
    written = starter(names[0], model or DEFAULT_MODEL, data if same else None)
    schema = path.parent / FILE
    if not schema.exists() or TITLE in schema.read_text(encoding="utf-8", errors="replace"):
        schema.write_text(schema_text(), encoding="utf-8")
    path.write_text(f"{MODELINE}\n{written.recipe}", encoding="utf-8")
    for line in written.lines():
        tell(stderr(), line)
    tell(stderr(), _next_step(path, [finding.key for finding in written.guess.unknown]))


def _next_step(path: Path, unknown: list[str]) -> str:
    """Return a sentence that says what to do next with the recipe."""
    if not unknown:
        return f"{path} written. Read it, then run: adapterzoo preview {path}"
    keys = " and ".join(filter(None, [", ".join(unknown[:-1]), unknown[-1]]))
    return f"{path} written. First fill in {keys} (now ???), then run: adapterzoo preview {path}"
