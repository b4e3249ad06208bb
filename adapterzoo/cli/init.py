"""``adapterzoo init``: a first recipe for a data file."""

from __future__ import annotations

from pathlib import Path

import click

from adapterzoo.errors import UserError
from adapterzoo.terminal import stderr, tell


@click.command()
@click.argument("data")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="The recipe to write [<data>.yaml].")
@click.option("--model", help="The base model: a hub id, a folder, or a bundled name.")
def init(data: str, out: Path | None, model: str | None) -> None:
    """Look at DATA (a file, a saved dataset or a hub id), write a commented recipe for it, and say how sure it is."""
    from adapterzoo.recipe.files import find_source
    from adapterzoo.starter import MODEL, starter

    names, problem = find_source(data, Path.cwd())
    if problem is not None:
        raise UserError.at(data, problem.what, problem.hint)
    if len(names) != 1:
        raise UserError.at(data, f"names {len(names)} files.", "Give one of them; data.source may name all.")
    path = out or Path(f"{Path(names[0]).stem}.yaml")
    if path.exists():
        raise UserError.at(str(path), "is there already.", "Give --out another name.")
    # As the user wrote it where that is found from the recipe's folder too.
    same = find_source(data, path.parent)[0] == names
    made = starter(names[0], model or MODEL, data if same else None)
    path.write_text(made.recipe, encoding="utf-8")
    for line in made.lines():
        tell(stderr(), line)
    tell(stderr(), _next_step(path, [found.key for found in made.guess.unknown]))


def _next_step(path: Path, unknown: list[str]) -> str:
    """Return what the user should do with the recipe."""
    if not unknown:
        return f"{path} written. Look at it, then: adapterzoo preview {path}"
    keys = " and ".join(filter(None, [", ".join(unknown[:-1]), unknown[-1]]))
    return f"{path} written. Before it works, fill in {keys} (now ???). Then: adapterzoo preview {path}"
