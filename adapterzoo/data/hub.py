"""Load datasets from the hub, and explain why one cannot be loaded: wrong name, no access, no network, a script."""

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

# Compare names, because these classes come from requests or from httpx, depending on the version of huggingface_hub.
UNREACHABLE_ERRORS = {
    "ConnectError",
    "ConnectionError",
    "ConnectTimeout",
    "LocalEntryNotFoundError",
    "MaxRetryError",
    "ProxyError",
    "ReadError",
    "ReadTimeout",
    "RemoteProtocolError",
    "WriteError",
    "WriteTimeout",
}
HUB_TIMEOUT_SECONDS = 10
OFFLINE_VARIABLES = ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "TRANSFORMERS_OFFLINE")


def load(name: str, config: str | None, revision: str | None, split: str | None, streaming: bool) -> Any:
    """Return what ``datasets.load_dataset`` returns, but never wait long for the hub, and never take another revision.

    Raises:
        UserError: the cache only has another revision.
        Exception: any error of the libraries; :func:`loading_error` explains it.
    """
    import datasets

    connection_error = _connection_error(name)
    try:
        with _cache_only(connection_error is not None):
            builder = datasets.load_dataset_builder(name, config, revision=revision)
    except ConnectionError as error:
        raise connection_error or error from None
    # When the library cannot load a dataset from the hub, it returns a builder of this module, which reads its cache.
    if type(builder).__module__.endswith(".cache.cache"):
        builder, cached_revision = _with_revision(builder, name, revision), builder.hash
        if builder is None and connection_error is None and not _offline():
            # The hub did answer, but the library hid its error. With an empty cache the library raises it.
            with TemporaryDirectory() as empty:
                datasets.load_dataset_builder(name, config, revision=revision, cache_dir=empty)
        if builder is None:
            what = f"{revision or 'main'} of {name} is not in the cache, and the hub could not be asked."
            raise UserError.at("data.revision", what, f"The cache has {cached_revision}.")
    if streaming:
        return builder.as_streaming_dataset(split=split)
    builder.download_and_prepare()
    return builder.as_dataset(split=split)


def loading_error(name: str, split: str | None, error: Exception) -> UserError:
    """Return the message for a dataset that cannot be loaded."""
    names, text = {type(cause).__name__ for cause in error_chain(error)}, _text(error)
    reason = error.__cause__ if type(error).__name__ == "DatasetGenerationError" else error
    lines = str(reason or error).strip().splitlines() or [type(error).__name__]
    where, what, hint = f"data.source {name}", f"cannot be loaded: {lines[0].rstrip('.')}.", ""
    if "GatedRepoError" in names or "is a gated dataset" in text:
        what = "is gated: its owners want to know who downloads it."
        hint = f"Accept their terms at https://huggingface.co/datasets/{name}, then log in (hf auth login)."
    elif "Dataset scripts are no longer supported" in text:
        what = "is a dataset script (.py), which is not run."
        hint = "Give files with its rows, or set data.revision: refs/convert/parquet."
    elif "corresponds to no data" in text:
        what = "has column names but no rows."
    elif names & {"DataFilesNotFoundError", "EmptyDatasetError"}:
        what = "has no data files (csv, json, parquet, ...)."
        hint = "If a script makes its rows, try data.revision: refs/convert/parquet."
    elif "Config name is missing" in text or "configurations in the cache" in text:
        where, what = "data.config", f"{name} has several configurations."
        hint = f"Name one: {', '.join(_listed(text))}."
    elif match := re.search(r"BuilderConfig '(.*)' not found|Couldn't find cache for .* for config '(.*)'", text):
        cached = " in the cache, and the hub could not be asked" if match[1] is None else ""
        where, what = "data.config", f"{name} has no configuration '{match[1] or match[2]}'{cached}."
        hint = did_you_mean(match[1] or match[2], _listed(text))
    elif split and ("Unknown split" in text or "Bad split" in text):
        where, what, hint = "data.split", f"{name} has no split '{split}'.", did_you_mean(split, _listed(text))
    elif "OfflineModeIsEnabled" in names or "OfflineModeIsEnabled" in text:
        variable = next((name for name in OFFLINE_VARIABLES if os.environ.get(name)), OFFLINE_VARIABLES[0])
        what = f"is not in the cache, and {variable} is set, so the hub was not asked."
        hint = "There is no such file or folder here either."
    elif "RevisionNotFoundError" in names:
        where, what = "data.revision", f"{name} has no such revision."
        hint = f"Its branches and tags: https://huggingface.co/datasets/{name}/tree/main."
    elif names & UNREACHABLE_ERRORS:
        what = "cannot be loaded: the hub cannot be reached from here."
        hint = "Connect, or give a file or a saved dataset."
    elif names & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        what = "is neither a dataset on the hub nor a file or folder here."
        hint = "Check its name; a private one needs a login (hf auth login)."
    elif "Invalid credentials" in text:
        what, hint = "cannot be loaded: the hub does not know this login.", "Log in again (hf auth login)."
    return UserError.at(where, what, hint)


def error_chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and all errors that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _connection_error(name: str) -> Exception | None:
    """Return the error of a hub that cannot be reached; None if it can be.

    The hub is asked once, because the libraries would try six times, which takes 24 seconds.
    """
    import huggingface_hub

    if _offline():
        return None
    try:
        huggingface_hub.HfApi().dataset_info(name, timeout=HUB_TIMEOUT_SECONDS)
    except Exception as error:
        # Any other error is raised again when the dataset is loaded.
        return error if {type(cause).__name__ for cause in error_chain(error)} & UNREACHABLE_ERRORS else None
    return None


def _offline() -> bool:
    """Tell whether the environment forbids asking the hub."""
    import datasets
    import huggingface_hub

    return bool(datasets.config.HF_HUB_OFFLINE or huggingface_hub.constants.HF_HUB_OFFLINE)


@contextmanager
def _cache_only(cache_only: bool) -> Iterator[None]:
    """Act as if HF_DATASETS_OFFLINE were set, if ``cache_only``; the library reads it only when it is imported."""
    import datasets

    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = cache_only or before
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def _with_revision(builder: Any, name: str, revision: str | None) -> Any:
    """Return the builder of the wanted revision from the cache; None if the cache does not have it.

    The library itself always takes the revision that was cached last, even if it was asked for another one.
    """
    from huggingface_hub import constants

    branch = revision or "main"
    ref = Path(constants.HF_HUB_CACHE, f"datasets--{name.replace('/', '--')}", "refs", branch)
    commit = ref.read_text().strip() if ref.is_file() else branch if re.fullmatch("[0-9a-f]{40}", branch) else None
    if builder.hash == commit or (commit is None and revision is None):
        return builder
    folder = Path(builder.cache_dir)  # .../configuration/version/commit
    if commit is not None and (folder.parent / commit).is_dir():
        config, version = folder.parts[-3:-1]
        return type(builder)(
            repo_id=name, dataset_name=builder.dataset_name, config_name=config, version=version, hash=commit
        )
    return None


def _listed(text: str) -> list[str]:
    """Return the names in a library's message, such as ``Available: ['one', 'two']``."""
    if match := re.search(r"\['.*?'\]", text):
        return [str(name) for name in ast.literal_eval(match[0])]
    match = re.search(r"configurations in the cache: (.*)", text)
    return match[1].split(", ") if match else []


def _text(error: Exception) -> str:
    return "\n".join(str(cause) for cause in error_chain(error))
