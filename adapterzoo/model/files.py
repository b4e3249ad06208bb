"""Find the files of a model, tell whether they changed, and refuse a model that comes with an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapterzoo.digests import file_digests, text_digest
from adapterzoo.errors import UserError
from adapterzoo.files import special_file, stays_inside
from adapterzoo.model.bundled import BUNDLED, model_folder

ADAPTER_CONFIG = "adapter_config.json"
LFS_POINTER = b"version https://git-lfs"
# No code reads these files, so a change in them does not change the model.
IGNORED_FILES = ("*.md", "LICENSE*", ".*")
# These files in subfolders are read beside those directly in the model's folder: by transformers, and by
# sentence-transformers.
SUBFOLDER_FILES = ("additional_chat_templates/*.jinja", "*_Pooling/config.json")


def locate(name: str, say: Callable[[str], None] = lambda message: None) -> str:
    """Return what transformers loads for a model's name: the absolute path of a folder, or the hub id unchanged.

    Raises:
        UserError: it can only be a folder, and there is none.
    """
    if name in BUNDLED:
        return str(model_folder(name, say))
    # Make the path absolute, because a plugin may change the working directory before the weights are loaded.
    if Path(name).is_dir():
        return str(Path(name).resolve())
    is_path = Path(name).is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if is_path and not Path(name).exists():
        raise UserError.at("model.name", f"there is no folder '{name}'.", "Give a folder, or the id of a hub.")
    return name


def refuse_adapter(location: str, revision: str | None) -> None:
    """Raise UserError if the model comes with an adapter, because transformers would load it with the base model."""
    from transformers.utils import cached_file

    path = cached_file(
        location,
        ADAPTER_CONFIG,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    if path is None:
        return
    where = path if Path(location).is_dir() else f"{location}/{ADAPTER_CONFIG}"
    what = "is an adapter in the folder of the model: transformers would load it, and change the base model."
    hint = "Merge it into the weights first (PEFT's merge_and_unload), or give model.name a folder without it."
    raise UserError.at(str(where), what, hint)


def refuse_strange_files(location: str) -> None:
    """Raise UserError if a model's folder has a pipe, or an index of weights that are outside of it or no safetensors.

    transformers would open them: any file of the user, a pickle, or a pipe that never ends.
    """
    hint = "Get the model from a source that you trust."
    if special := special_file(Path(location)):
        raise UserError.at(str(special), "is not an ordinary file.", hint)
    for index in sorted(Path(location).glob("*.safetensors.index.json")):
        for name in sorted(_names_in(index)):
            if not (stays_inside(name) and name.endswith(".safetensors")):
                what = f"names '{name}', which is no safetensors file in the folder of the model."
                raise UserError.at(str(index), what, hint)


def refuse_gguf(location: str) -> None:
    """Raise UserError if a model is a GGUF file, or a folder with one in place of a config.json."""
    path = Path(location)
    found = [path] if path.suffix == ".gguf" else sorted(path.glob("*.gguf")) if path.is_dir() else []
    if not found or (path / "config.json").exists():
        return
    what = "cannot be loaded: transformers has to turn a GGUF file into a folder with ordinary weights once."
    raise UserError.at(str(found[0]), what, "docs/quantizations.md has the code; then give model.name that folder.")


def refuse_damaged(location: str) -> None:
    """Raise UserError if a file in a model's folder is not what it should be, as far as its beginning shows it."""
    folder = Path(location)
    if not folder.is_dir():
        return
    for path in model_files(folder):
        try:
            if problem := _damage(path):
                raise UserError.at(str(path), *problem)
        except OSError as error:
            raise UserError.at(str(path), f"cannot be read: {error.strerror}.") from None


def _damage(path: Path) -> tuple[str, str] | None:
    """Return what is wrong with a file of a model, and a hint; None if nothing is found."""
    with path.open("rb") as file:
        start = file.read(len(LFS_POINTER))
    if start == LFS_POINTER:
        return "is a pointer of Git LFS, and not the file itself.", "Run git lfs pull in its folder."
    if path.suffix != ".safetensors":
        return None
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="np"):
            return None
    except SafetensorError as error:
        reason = str(error).removeprefix("Error while deserializing header: ")
        return f"cannot be loaded: it is damaged, or its download was not finished ({reason}).", "Download it again."


def weight_count(location: str) -> int | None:
    """Return the number of weights in a model's folder, by the headers of its files; None if that is not known."""
    names = weight_names(Path(location)) if Path(location).is_dir() else set()
    return len(names) or None


def never_ask() -> None:
    """Make transformers refuse a model's own code where it would ask in the terminal whether to run it."""
    from transformers import dynamic_module_utils

    dynamic_module_utils.TIME_OUT_REMOTE_CODE = 0


def fingerprint(location: str, config: Any) -> str | None:
    """Return the commit of a hub id, or a digest of all files of a model's folder.

    The digest covers all that transformers may read: weights, configurations, tokenizer, templates, code. Files that
    did not change since the last time are not read again.

    Raises:
        UserError: a file cannot be read.
    """
    folder = Path(location)
    if not folder.is_dir():
        return getattr(config, "_commit_hash", None)
    try:
        digests = file_digests(model_files(folder))
    except OSError as error:
        raise UserError.at(f"model {location}", f"cannot be read: {error.filename}: {error.strerror}.") from None
    return text_digest("\0".join(f"{path.relative_to(folder)}={digest}" for path, digest in digests.items()))


def model_files(folder: Path) -> list[Path]:
    """Return a model's files: those in its folder, and those that transformers reads in subfolders."""
    names = {name for index in folder.glob("*.index.json") for name in _names_in(index)}
    shards = {folder / name for name in names if stays_inside(name)}
    templates = {path for pattern in SUBFOLDER_FILES for path in folder.glob(pattern)}
    ignored = {path for pattern in IGNORED_FILES for path in folder.glob(pattern)}
    return sorted(path for path in ({*folder.iterdir()} - ignored) | shards | templates if path.is_file())


def weight_names(folder: Path) -> set[str]:
    """Return the names of the weights in a folder's safetensors files, without reading the weights."""
    from safetensors import safe_open

    names: set[str] = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="np") as file:
            names.update(file.keys())
    return names


def _names_in(index: Path) -> set[str]:
    """Return the file names in an index of weights; none if it is damaged, because loading the model reports that."""
    try:
        return {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()
