"""Find the files that a recipe names, in its own folder or in the current one, without reading them."""

from __future__ import annotations

import re
from pathlib import Path

from adapterzoo.errors import Problem

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
"""suffix -> usual delimiter of such files"""
JSON = (".json", ".jsonl", ".ndjson")
BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
"""suffix -> name of the builder in ``datasets`` that reads such files"""
SUFFIXES = (*DELIMITERS, *JSON, *BUILDERS)
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def find_file(name: str, folder: Path) -> tuple[list[str], Problem | None]:
    """Return the absolute path of a file that a recipe names, or the problem if there is no such file.

    Args:
        name: the path as the recipe gives it.
        folder: the recipe's folder, where the file is looked for before the current folder.
    """
    path = _existing(name, folder)
    return ([str(path)], None) if path is not None and path.is_file() else ([], _missing(name, folder))


def find_source(source: str, folder: Path) -> tuple[list[str], Problem | None]:
    """Return the files, folder or hub id that a source names, and the problem if it cannot be read.

    Files and the folder of a saved dataset are returned as absolute paths, a hub id unchanged.

    Args:
        source: a path, a pattern like ``data/*.csv``, or a hub id.
        folder: the recipe's folder, where paths are looked for before the current folder.
    """
    if path := _existing(source, folder):
        return [str(path)], _unreadable(path)
    if re.search(r"[*?\[]", source) and (matches := _matching(source, folder)):
        return [str(match) for match in matches], next(filter(None, map(_unreadable, matches)), None)
    return ([source], None) if is_hub_id(source) else ([], _missing(source, folder))


def is_hub_id(source: str) -> bool:
    """Tell whether a source that is not a file here may be the id of a dataset on the hub."""
    return HUB_ID.fullmatch(source) is not None and not source.endswith((*SUFFIXES, ".py", ".txt", ".xlsx"))


def _existing(name: str, folder: Path) -> Path | None:
    """Return the absolute path of a file or folder in the recipe's or the current folder; None if there is none."""
    try:
        wanted = Path(name).expanduser()
        return next((place.resolve() for place in (folder / wanted, Path.cwd() / wanted) if place.exists()), None)
    except (OSError, RuntimeError, ValueError):  # an unknown user (~name), a name that is too long, or a NUL in it
        return None


def _missing(name: str, folder: Path) -> Problem:
    looked = " and in ".join(dict.fromkeys(map(str, (folder.absolute(), Path.cwd()))))
    return Problem("", f"there is no file '{name}'.", f"Looked in {looked}.")


def _matching(source: str, folder: Path) -> list[Path]:
    """Return the absolute paths, sorted, that match a pattern in the recipe's folder, or else in the current folder."""
    try:
        pattern = Path(source).expanduser()
        if pattern.is_absolute():
            return sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
        for place in (folder, Path.cwd()):
            if matches := sorted(path.resolve() for path in place.glob(str(pattern))):
                return matches
    except (OSError, RuntimeError, ValueError):  # an unknown user (~name), or a NUL in the pattern
        pass
    return []


def _unreadable(path: Path) -> Problem | None:
    """Return why an existing path cannot be a source, judged by its name and kind; None if it can."""
    if path.is_dir():
        if is_saved(path):
            return None
        files = sorted(file.name for file in path.iterdir() if file.suffix in SUFFIXES)
        hint = f"Name its files, like {path.name}/*{Path(files[0]).suffix}." if files else ""
        return Problem("", f"'{path}' is a folder, but not a dataset that save_to_disk wrote.", hint)
    if not path.is_file():
        return Problem("", f"'{path}' is not an ordinary file.", "Write its content to a file first.")
    if path.suffix == ".py":
        return Problem("", f"'{path}' is a script, and scripts are never run.", "Name the file that it writes.")
    if path.suffix not in SUFFIXES:
        kinds = ", ".join(SUFFIXES)
        return Problem("", f"'{path}' is not of a known kind.", f"Its name must end with one of {kinds}.")
    return None


def is_saved(path: Path) -> bool:
    """Tell whether a folder is a dataset that ``save_to_disk`` wrote."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
