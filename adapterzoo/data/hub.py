"""Datasets of a hub; and why there is none, told apart: no such name, not for you, no network, a script."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from adapterzoo.errors import UserError, did_you_mean

UNREACHABLE = {
    "ConnectError",
    "ConnectionError",
    "ConnectTimeout",
    "LocalEntryNotFoundError",
    "MaxRetryError",
    "ProxyError",
    "ReadError",
    "ReadTimeout",
    "RemoteProtocolError",
}
ASKED_FOR_S = 10
OFFLINE = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def load(name: str, config: str | None, revision: str | None, split: str | None, streaming: bool) -> Any:
    """What ``datasets.load_dataset`` gives, but at once where no hub can be reached, and never of another revision.

    Raises:
        UserError: the cache has another revision only.
        Exception: whatever the libraries raise; see :func:`refused`.
    """
    import datasets

    unreachable = _unreachable(name)
    try:
        with _cache_only(unreachable is not None):
            builder = datasets.load_dataset_builder(name, config, revision=revision)
    except ConnectionError as error:
        raise unreachable or error from None
    if type(builder).__module__.endswith(".cache.cache"):
        builder, last = _of_revision(builder, name, revision), builder.hash
        if builder is None and unreachable is None and not _offline():
            with TemporaryDirectory() as empty:  # the hub did answer, but the library kept that for itself
                datasets.load_dataset_builder(name, config, revision=revision, cache_dir=empty)
        if builder is None:
            what = f"{revision or 'main'} of {name} is not in the cache, and no hub could be asked."
            raise UserError.at("data.revision", what, f"There is: {last}.")
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def refused(name: str, split: str | None, error: Exception) -> UserError:
    """What to tell a person about a dataset that could not be had."""
    names, text = {type(one).__name__ for one in _chain(error)}, _text(error)
    shown = error.__cause__ if type(error).__name__ == "DatasetGenerationError" else error
    lines = str(shown or error).strip().splitlines() or [type(error).__name__]
    where, what, hint = f"data.source {name}", f"cannot be loaded: {lines[0].rstrip('.')}.", ""
    if "GatedRepoError" in names or "is a gated dataset" in text:
        what = "is gated: its owners ask who reads it."
        hint = f"Accept their terms at https://huggingface.co/datasets/{name}, then log in (hf auth login)."
    elif "Dataset scripts are no longer supported" in text:
        what = "is a dataset script (.py), which is not run."
        hint = "Give its files, or data.revision: refs/convert/parquet."
    elif "corresponds to no data" in text:
        what = "has column names but no rows."
    elif names & {"DataFilesNotFoundError", "EmptyDatasetError"}:
        what = "has no files of rows (csv, json, parquet, ...)."
        hint = "If it is a script that makes them, data.revision: refs/convert/parquet may have them."
    elif "Config name is missing" in text or "configurations in the cache" in text:
        where, what = "data.config", f"{name} has several configurations."
        hint = f"Name one: {', '.join(_listed(text))}."
    elif found := re.search(r"BuilderConfig '(.*)' not found|Couldn't find cache for .* for config '(.*)'", text):
        cached = " in the cache, and no hub could be asked" if found[1] is None else ""
        where, what = "data.config", f"{name} has no configuration '{found[1] or found[2]}'{cached}."
        hint = did_you_mean(found[1] or found[2], _listed(text))
    elif split and ("Unknown split" in text or "Bad split" in text):
        where, what, hint = "data.split", f"{name} has no split '{split}'.", did_you_mean(split, _listed(text))
    elif "OfflineModeIsEnabled" in names or "OfflineModeIsEnabled" in text:
        offline = next((one for one in OFFLINE if os.environ.get(one)), OFFLINE[0])
        what = f"is not in the cache, and {offline} is set, so no hub was asked."
        hint = "There is no such file or folder here either."
    elif "RevisionNotFoundError" in names:
        where, what = "data.revision", f"{name} has no such revision."
        hint = f"Its branches and tags: https://huggingface.co/datasets/{name}/tree/main."
    elif names & UNREACHABLE:
        what = "could not be asked for: the hub cannot be reached from here."
        hint = "Connect, or give a file or a saved dataset."
    elif names & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        what = "is on no hub, nor a file or folder here."
        hint = "Check its name; a private one needs a login (hf auth login)."
    elif "Invalid credentials" in text:
        what, hint = "was not given: the hub does not know this login.", "Log in again (hf auth login)."
    return UserError.at(where, what, hint)


def _unreachable(name: str) -> Exception | None:
    """Why no hub can be reached, if so. Asked once: the libraries would try six times, which takes 24 seconds."""
    import huggingface_hub

    if _offline():
        return None
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=ASKED_FOR_S)
    except Exception as error:
        # By name: of one version these are of requests, of another of httpx. Whatever else it is comes again.
        return error if {type(one).__name__ for one in _chain(error)} & UNREACHABLE else None
    return None


def _offline() -> bool:
    """Whether no hub is to be asked."""
    import datasets
    import huggingface_hub

    return bool(datasets.config.HF_HUB_OFFLINE or huggingface_hub.constants.HF_HUB_OFFLINE)


@contextmanager
def _cache_only(wanted: bool) -> Iterator[None]:
    """As if HF_DATASETS_OFFLINE were set, which is read only once, when the library is imported."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = wanted or before
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _of_revision(builder: Any, name: str, revision: str | None) -> Any:
    """From the cache, the library takes what was put there last, whatever revision it was asked for.

    Returns:
        The builder of the revision that was asked for; None if that is not in the cache.
    """
    from huggingface_hub import constants

    branch = revision or "main"
    note = Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}", "refs", branch)
    commit = note.read_text().strip() if note.is_file() else branch if re.fullmatch("[0-9a-f]{40}", branch) else None
    if builder.hash == commit or (commit is None and revision is None):
        return builder
    place = Path(builder.cache_dir)  # .../configuration/version/commit
    if commit is not None and (place.parent / commit).is_dir():
        config, version = place.parts[-3:-1]
        return type(builder)(
            repo_id=name, dataset_name=builder.dataset_name, config_name=config, version=version, hash=commit
        )
    return None


def _listed(text: str) -> list[str]:
    """The names in a library's message, like ``Available: ['one', 'two']``."""
    if found := re.search(r"\['.*?'\]", text):
        return [str(name) for name in ast.literal_eval(found[0])]
    found = re.search(r"configurations in the cache: (.*)", text)
    return found[1].split(", ") if found else []


def _text(error: Exception) -> str:
    return "\n".join(str(one) for one in _chain(error))


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
