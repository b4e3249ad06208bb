"""Why a hub gave no dataset, told apart: no such name, not for you, no network, a script."""

from __future__ import annotations

import os
from collections.abc import Iterator

from adapterzoo.errors import UserError

UNREACHABLE = {
    "ConnectionError",
    "ConnectError",
    "ConnectTimeout",
    "LocalEntryNotFoundError",
    "MaxRetryError",
    "ReadTimeout",
}


def refused(name: str, split: str | None, error: Exception) -> UserError:
    """What to tell a person about a dataset that could not be had."""
    names = {type(one).__name__ for one in _chain(error)}
    text = " ".join(str(one) for one in _chain(error))
    lines = str(error).strip().splitlines() or [type(error).__name__]
    where, what, cure = f"data.source {name}", f"cannot be loaded: {lines[0].rstrip('.')}.", ""
    if "GatedRepoError" in names or "gated" in text:
        what = "is gated: its owners ask who reads it."
        cure = f"Accept their terms at https://huggingface.co/datasets/{name}, then log in (hf auth login)."
    elif "Dataset scripts are no longer supported" in text:
        what = "is a dataset script (.py), which is not run."
        cure = "Give its files, or a revision like refs/convert/parquet."
    elif os.environ.get("HF_HUB_OFFLINE") == "1" or "OfflineModeIsEnabled" in names:
        what = "is not in the cache, and HF_HUB_OFFLINE is set, so no hub was asked."
        cure = "There is no such file or folder here either."
    elif "RevisionNotFoundError" in names:
        where, what = "data.revision", f"{name} has no such revision."
    elif names & UNREACHABLE:
        what = "could not be asked for: the hub cannot be reached from here."
        cure = "Connect, or give a file or a saved dataset."
    elif names & {"RepositoryNotFoundError", "DatasetNotFoundError"}:
        what = "is on no hub, nor a file or folder here."
        cure = "Check its name; a private one needs a login (hf auth login)."
    elif "Config name is missing" in text or "BuilderConfig" in text:
        where, what = "data.config", f"{name}: {' '.join(str(error).split()).rstrip('.')}."
    elif split and ("Unknown split" in text or "Bad split" in text):
        where, what = "data.split", f"{name}: {lines[0].rstrip('.')}."
    return UserError.at(where, what, cure)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """An error and all that led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
