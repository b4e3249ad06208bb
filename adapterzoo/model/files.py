"""Find the files of a model, tell whether they changed, and refuse a model that comes with an adapter."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from adapterzoo.digests import file_digests, text_digest
from adapterzoo.errors import UserError
from adapterzoo.model.bundled import BUNDLED, model_folder

ADAPTER_CONFIG = "adapter_config.json"
# No code reads these files, so a change in them does not change the model.
IGNORED_FILES = ("*.md", "LICENSE*", ".*")
# These files in subfolders are read beside those directly in the model's folder: by transformers, and by
# sentence-transformers.
SUBFOLDER_FILES = ("additional_chat_templates/*.jinja", "*_Pooling/config.json")


def locate(name: str, say: Callable[[str], None] = lambda message: None) -> str:
    """Return what transformers loads for a model's name: the absolute path of a folder, or the hub id unchanged."""
    if name in BUNDLED:
        return str(model_folder(name, say))
    # Make the path absolute, because a plugin may change the working directory before the weights are loaded.
    return str(Path(name).absolute()) if Path(name).is_dir() else name


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
        digests = file_digests(_files(folder))
    except OSError as error:
        raise UserError.at(f"model {location}", f"cannot be read: {error.filename}: {error.strerror}.") from None
    return text_digest("\0".join(f"{path.relative_to(folder)}={digest}" for path, digest in digests.items()))


def _files(folder: Path) -> list[Path]:
    """Return a model's files: those in its folder, and those that transformers reads in subfolders."""
    shards = {folder / name for index in folder.glob("*.index.json") for name in _shards(index)}
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


def _shards(index: Path) -> set[str]:
    """Return the file names in an index of weights; none if it is damaged, because loading the model reports that."""
    try:
        return {str(name) for name in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return set()
