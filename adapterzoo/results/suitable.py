"""Find out whether a folder can be the output folder of a recipe, before anything is written into it."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from adapterzoo.errors import UserError, is_disk_full
from adapterzoo.files import temporary_path
from adapterzoo.results.identity import differences, identity_hash, without_changeable
from adapterzoo.results.note import NOTE, UNREADABLE, read_note
from adapterzoo.results.reading import read_results, refuse_links
from adapterzoo.results.result import RESULT, Result

LOCK = ".lock"


def check_recipe(folder: Path, identity: Mapping[str, Any]) -> str | None:
    """Raise an error unless the folder is empty or missing, or holds results of the same recipe.

    Args:
        identity: the recipe's identity, from :func:`recipe_identity`.

    Returns:
        A message if the folder's note is damaged, and its results show that they are of the same recipe.

    Raises:
        UserError: it holds other files, links that lead out of it, or results of a recipe that differs in more
            than its methods and seeds.
    """
    # Do not look through a folder that is not ours, which may be large.
    if os.path.lexists(folder / NOTE) or any(folder.glob(f"*/seed-*/{RESULT}")):
        refuse_links(folder)
    message = None
    try:
        if not _holds_files(folder):
            return None
        try:
            before: list[dict[str, Any]] = [read_note(folder)["identity"]]
        except UNREADABLE as error:
            is_missing = isinstance(error, FileNotFoundError)
            before = [result.recipe for result in readable_results(folder) if result.recipe]
            if not before:
                raise _unknown(folder, is_missing) from None
            what = "is missing" if is_missing else "is damaged"
            message = f"{folder / NOTE} {what}, and is made again: the results are of the same recipe"
    except OSError as error:
        raise unusable(folder, error) from None
    for other in map(without_changeable, before):
        model, own = other.get("model"), identity.get("model", {})
        if isinstance(model, dict) and own.get("weights") is not None and model.get("weights") == own["weights"]:
            other["model"] = {**model, "name": own["name"]}  # the same files in another folder are the same model
        if identity_hash(other) != identity_hash(identity):
            changes = "; ".join(differences(other, identity))
            what = f"holds the results of another recipe ({changes})."
            raise UserError.at(str(folder), what, "Give --out another folder, or remove that one.")
    return message


def check_place(folder: Path) -> None:
    """Raise UserError if the folder cannot be the output folder of any recipe; this reads no data and no model."""
    try:
        place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
        if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
            code = errno.EACCES if place.is_dir() else errno.ENOTDIR
            raise OSError(code, os.strerror(code))
        is_ours = (folder / NOTE).exists() or any(folder.glob(f"*/seed-*/{RESULT}"))
        if _holds_files(folder) and not is_ours:
            raise _unknown(folder, is_missing=True)
    except OSError as error:
        raise unusable(folder, error) from None


def _holds_files(folder: Path) -> bool:
    """Tell whether the folder holds anything but what a run that was killed at its start may have left."""
    ours = (LOCK, temporary_path(folder / NOTE).name)
    return folder.exists() and any(path.name not in ours for path in folder.iterdir())


def readable_results(folder: Path) -> list[Result]:
    """Return the results in the folder, without damaged ones."""
    with suppress(UserError):
        return [result for _, result in read_results(folder).cells]
    return []


def _unknown(folder: Path, is_missing: bool) -> UserError:
    """Return the error of a folder without a note and without results."""
    if is_missing:
        what = "is not empty and is not an output folder of adapterzoo."
        return UserError.at(str(folder), what, "Give --out another folder.")
    what = "is damaged, and no result in its folder shows the recipe."
    return UserError.at(str(folder / NOTE), what, "Give --out another folder, or remove that one.")


def unusable(folder: Path, error: OSError) -> UserError:
    """Return the error of a folder that cannot be written."""
    hint = "Free some space on its disk, or give another folder." if is_disk_full(error) else "Give another folder."
    return UserError.at(f"--out {folder}", f"cannot be written: {error.strerror}.", hint)
