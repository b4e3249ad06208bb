"""Finds the files that a recipe names, beside it or in the current folder, without reading them."""

from __future__ import annotations

import re
from pathlib import Path

from adapterzoo.errors import Problem

DELIMITERS = {".csv": ",", ".tsv": "\t", ".tab": "\t"}
JSON = (".json", ".jsonl", ".ndjson")
BUILDERS = {".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow"}
"""the kinds that ``datasets`` reads, each by the name of its builder"""
SUFFIXES = (*DELIMITERS, *JSON, *BUILDERS)
HUB_ID = re.compile(r"[\w][\w.-]*/[\w][\w.-]*")


def find_file(name: str, folder: Path) -> tuple[list[str], Problem | None]:
    """Any file that a recipe names, beside it or in the current folder: its absolute path."""
    there = _existing(name, folder)
    return ([str(there)], None) if there is not None and there.is_file() else ([], _missing(name, folder))


def find_source(source: str, folder: Path) -> tuple[list[str], Problem | None]:
    """What a recipe names: absolute paths of files or of a saved dataset's folder, or a hub id as it is.

    Args:
        source: a path, a pattern like ``data/*.csv``, or a hub id.
        folder: the recipe's, where paths are looked for before the current folder.
    """
    if there := _existing(source, folder):
        return [str(there)], _unreadable(there)
    if re.search(r"[*?\[]", source) and (matches := _matching(source, folder)):
        return [str(path) for path in matches], next(filter(None, map(_unreadable, matches)), None)
    return ([source], None) if is_hub_id(source) else ([], _missing(source, folder))


def is_hub_id(source: str) -> bool:
    """Whether a name is one that a hub may have, where there is no such file here."""
    return HUB_ID.fullmatch(source) is not None and not source.endswith((*SUFFIXES, ".py", ".txt", ".xlsx"))


def _existing(name: str, folder: Path) -> Path | None:
    """What a path names, beside the recipe or in the current folder; absolute."""
    try:
        wanted = Path(name).expanduser()
        return next((place.resolve() for place in (folder / wanted, Path.cwd() / wanted) if place.exists()), None)
    except (OSError, RuntimeError, ValueError):  # no such user, a name too long, a NUL in it
        return None


def _missing(name: str, folder: Path) -> Problem:
    looked = " and in ".join(dict.fromkeys(map(str, (folder.absolute(), Path.cwd()))))
    return Problem("", f"there is no file '{name}'.", f"Looked in {looked}.")


def _matching(source: str, folder: Path) -> list[Path]:
    """The files of a pattern, beside the recipe or else in the current folder; in order, absolute."""
    try:
        pattern = Path(source).expanduser()
        if pattern.is_absolute():
            return sorted(Path(pattern.anchor).glob(str(pattern.relative_to(pattern.anchor))))
        for place in (folder, Path.cwd()):
            if found := sorted(path.resolve() for path in place.glob(str(pattern))):
                return found
    except (OSError, RuntimeError, ValueError):  # no such user, a NUL in it
        pass
    return []


def _unreadable(path: Path) -> Problem | None:
    """Why something that exists cannot be a source, by its name alone."""
    if path.is_dir():
        if is_saved(path):
            return None
        files = sorted(one.name for one in path.iterdir() if one.suffix in SUFFIXES)[:3]
        hint = f"Name its files, like {path.name}/*{Path(files[0]).suffix}." if files else ""
        return Problem("", f"'{path}' is a folder, and no dataset that save_to_disk wrote.", hint)
    if not path.is_file():
        return Problem("", f"'{path}' is no ordinary file.", "Write what comes out of it to a file first.")
    if path.suffix == ".py":
        return Problem("", f"'{path}' is a script; data is read, never run.", "Give the file that it writes.")
    if path.suffix not in SUFFIXES:
        kinds = ", ".join(SUFFIXES)
        return Problem("", f"'{path}' is of no known kind.", f"Its name must end with one of {kinds}.")
    return None


def is_saved(path: Path) -> bool:
    """Whether a folder is one that ``save_to_disk`` wrote."""
    return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
