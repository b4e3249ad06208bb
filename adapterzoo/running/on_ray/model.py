"""Send the files of the base model to the nodes of a Ray cluster that do not have them, once to each node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from adapterzoo.digests import file_digest, file_digests
from adapterzoo.errors import AdapterzooError, UserError
from adapterzoo.files import cache_folder, new_folder, remove, stays_inside, sync

if TYPE_CHECKING:
    from ray import ObjectRef

PART_BYTES = 64 * 2**20
FOLDERS = "models"  # in the cache: a folder for each model that was received, named by its digest
CODE = ".py"


@dataclass(frozen=True)
class SentFile:
    """A file of a model, in the cluster's object store."""

    name: str
    digest: str
    parts: list[ObjectRef[bytes]]


@dataclass(frozen=True)
class SentModel:
    """The files of a model, in the cluster's object store, which brings each to a node only once."""

    weights: str
    """digest of all files of the model"""
    files: list[SentFile]


def send_model(location: str, weights: str) -> SentModel:
    """Put the files of a model's folder into the object store; code is left out.

    Args:
        location: folder of the model.
        weights: the digest of all its files.
    """
    import ray

    from adapterzoo.model.files import model_files

    folder = Path(location)
    digests = file_digests(path for path in model_files(folder) if path.suffix != CODE)
    files = [
        SentFile(path.relative_to(folder).as_posix(), digest, [ray.put(part) for part in _parts(path)])
        for path, digest in digests.items()
    ]
    return SentModel(weights, files)


def _parts(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while part := file.read(PART_BYTES):
            yield part


def has_model(location: str, weights: str | None) -> bool:
    """Tell whether a folder of this machine holds a model with this digest of all its files."""
    from adapterzoo.model.files import fingerprint

    with suppress(UserError):
        return Path(location).is_dir() and fingerprint(location, None) == weights
    return False


def receive_model(model: SentModel) -> Path:
    """Return a folder with the files of a model, which are written unless they are there already.

    Raises:
        AdapterzooError: a file is not what was sent.
    """
    folder = cache_folder() / FOLDERS / model.weights
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f"{model.weights}.lock")):  # two agents may start on one node
        if folder.is_dir() and not _is_intact(folder, model):
            remove(folder)
        if not folder.is_dir():
            with new_folder(folder) as new:
                for file in model.files:
                    _write(new, file)
                sync(new)
    return folder


def _is_intact(folder: Path, model: SentModel) -> bool:
    with suppress(OSError):
        digests = file_digests(folder / file.name for file in model.files)
        return all(digests[folder / file.name] == file.digest for file in model.files)
    return False


def _write(folder: Path, file: SentFile) -> None:
    import ray

    path = folder / file.name
    if not stays_inside(file.name):
        raise AdapterzooError(f"the model has a file outside of its folder: {file.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as written:
        for part in file.parts:
            written.write(ray.get(part))
    if file_digest(path) != file.digest:
        raise AdapterzooError(f"{file.name} of the base model was changed while it was sent")
