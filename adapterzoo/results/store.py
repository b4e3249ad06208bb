"""Write and read the output folder of a recipe, which has one folder for each cell.

``result.json`` is written last, in one step, so a cell that has one is finished. This module does not import torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adapterzoo.digests import file_digest, file_digests, records_digest
from adapterzoo.errors import UserError
from adapterzoo.files import temporary_path, write_atomically
from adapterzoo.results.identity import differences, identity_hash
from adapterzoo.results.result import NOTE, RESULT, TIMES, Result, read_result

PREDICTIONS = "predictions.jsonl"
GENERAL = "general.jsonl"
ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
SETTINGS = f"{CHECKPOINTS}/settings.json"
TRACEBACK = "traceback.txt"
RECIPE = "recipe.yaml"
LOCK = ".lock"


class Store:
    """The output folder of one recipe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / LOCK, timeout=0)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        """Leave the lock out when the store is sent to another process: this one holds it for both."""
        return type(self), (self.folder,)

    def check(self, identity: Mapping[str, Any]) -> None:
        """Raise an error unless the folder is empty or missing, or holds results of the same recipe.

        Args:
            identity: the recipe's identity, from :func:`recipe_identity`.

        Raises:
            UserError: it holds other files, or results of a recipe that differs in more than its methods and seeds.
        """
        note = self.folder / NOTE
        try:
            before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else None
            if before is not None and before["recipe_hash"] != identity_hash(identity):
                changes = "; ".join(differences(before["identity"], identity))
                raise UserError.at(
                    str(self.folder),
                    f"holds the results of another recipe ({changes}).",
                    "Give --out another folder, or remove that one.",
                )
            ours = (LOCK, temporary_path(note).name)  # a run that was killed at its start may have left these files
            if before is None and self.folder.exists() and any(p.name not in ours for p in self.folder.iterdir()):
                what = "is not empty and is not an output folder of adapterzoo."
                raise UserError.at(str(self.folder), what, "Give --out another folder.")
        except OSError as error:
            raise self._unusable(error) from None
        except (ValueError, KeyError, TypeError):
            raise UserError.at(str(note), "is damaged.", "Give --out another folder, or remove that one.") from None

    def begin(
        self, resolved: Mapping[str, Any], identity: Mapping[str, Any], cells: Sequence[tuple[str, int]] = ()
    ) -> None:
        """Create the folder for a recipe, and lock it for other runs until :meth:`release`.

        Args:
            resolved: the recipe with every default.
            identity: the recipe's identity, as given to :meth:`check`.
            cells: label and seed of every cell of the run, so that the missing ones are known later.

        Raises:
            UserError: the folder cannot be written, or another run is writing into it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(NotImplementedError):  # some file systems have no locks
                self._lock.acquire()
            note = {
                "recipe_hash": identity_hash(identity),
                "identity": identity,
                "cells": cells,
                "threads": self.threads(),
            }
            write_atomically(self.folder / NOTE, json.dumps(note, indent=1))
            write_atomically(self.folder / RECIPE, _yaml(resolved))
        except Timeout:
            hint = "Wait for it, or give --out another folder."
            raise UserError.at(str(self.folder), "another run is writing there.", hint) from None
        except OSError as error:
            raise self._unusable(error) from None

    def release(self) -> None:
        """Unlock the folder for other runs."""
        self._lock.release()

    def _unusable(self, error: OSError) -> UserError:
        return UserError.at(f"--out {self.folder}", f"cannot be written: {error.strerror}.", "Give another folder.")

    def weights(self) -> str | None:
        """Return the hash of the base model's weights in this folder's runs; None if it is not known."""
        try:
            weights: str | None = self._note()["identity"]["model"]["weights"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return weights

    def threads(self) -> int | None:
        """Return the number of threads of each cell in this folder; None if it was not chosen yet."""
        try:
            number = self._note()["threads"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return number if isinstance(number, int) and number > 0 else None

    def keep_threads(self, number: int) -> None:
        """Keep the number of threads for later runs, because sums are rounded differently with another number."""
        write_atomically(self.folder / NOTE, json.dumps({**self._note(), "threads": number}, indent=1))

    def keep_times(self, times: Mapping[str, float]) -> None:
        """Keep the seconds of each activity of this run."""
        write_atomically(self.folder / NOTE, json.dumps({**self._note(), TIMES: dict(times)}, indent=1))

    def _note(self) -> dict[str, Any]:
        note: dict[str, Any] = json.loads((self.folder / NOTE).read_text(encoding="utf-8"))
        return note

    def label(self, label: str) -> Path:
        """Return the folder of all cells of a label."""
        return self.folder / label

    def cell(self, label: str, seed: int) -> Path:
        """Return the folder of one cell."""
        return self.folder / label / f"seed-{seed}"

    def results_of(self, label: str) -> list[Result]:
        """Return the results of all seeds of a label."""
        return [read_result(path) for path in sorted((self.folder / label).glob(f"seed-*/{RESULT}"))]

    def clear(self, label: str, seed: int, settings: Mapping[str, Any]) -> Path:
        """Remove older results from the folder of a cell; return the folder.

        Args:
            label: label of the cell.
            seed: seed of the cell.
            settings: everything that its training depends on beside the recipe. Checkpoints with the same settings
                are kept, because training resumes from them.
        """
        folder = self.cell(label, seed)
        for name in (RESULT, PREDICTIONS, GENERAL, TRACEBACK):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / ADAPTER, ignore_errors=True)
        if not self.suits(folder, settings):
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            write_atomically(folder / SETTINGS, _text(settings))
        return folder

    def suits(self, folder: Path, settings: Mapping[str, Any]) -> bool:
        """Tell whether the checkpoints in a cell's folder are of trainings with these settings."""
        marker = folder / SETTINGS
        return marker.is_file() and marker.read_bytes() == _text(settings).encode()

    def write(
        self,
        result: Result,
        predictions: Iterable[Mapping[str, Any]] = (),
        general: Iterable[Mapping[str, Any]] = (),
        *,
        keep_checkpoints: bool = False,
    ) -> Result:
        """Write a cell's predictions and records of the general text, and then, in one step, its result.

        Args:
            result: the result.
            predictions: one record for each test example.
            general: one record for each paragraph of the general text.
            keep_checkpoints: whether to keep the cell's checkpoints.

        Returns:
            The result as it was written, with the digests of its records.
        """
        folder = self.cell(result.label, result.seed)
        folder.mkdir(parents=True, exist_ok=True)
        digests = {}
        for name, records in ((PREDICTIONS, list(predictions)), (GENERAL, list(general))):
            if records:
                lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
                write_atomically(folder / name, "".join(lines))
                digests[name] = records_digest(records)
        written = replace(result, record_digests={**result.record_digests, **digests})
        write_atomically(folder / RESULT, json.dumps(asdict(written), indent=1, ensure_ascii=False) + "\n")
        if not keep_checkpoints:
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return written


def has_weights(folder: Path) -> bool:
    """Tell whether a method has saved weights as safetensors in a folder, or in a folder below it."""
    return any(folder.rglob("*.safetensors"))


def folder_bytes(folder: Path) -> int:
    """Return the size of the weights in an adapter's folder, in bytes."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def adapter_files(folder: Path) -> dict[str, str]:
    """Return path -> digest for the files in an adapter's folder."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def changed_files(cell: Path, result: Result) -> list[str]:
    """Return the adapter files of a cell that are not what the run wrote: changed or missing.

    If the whole adapter was removed, perhaps to save space, no file is returned.

    Args:
        cell: the cell's folder.
        result: the cell's result, with the digests of the files.
    """
    folder = cell / ADAPTER
    if not folder.is_dir():
        return []
    try:
        digests = file_digests(folder / name for name in result.adapter_files if (folder / name).is_file())
    except OSError:  # files that cannot be read count as missing
        digests = {}
    written = result.adapter_files.items()
    return [f"{ADAPTER}/{name}" for name, digest in written if digests.get(folder / name) != digest]


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _yaml(data: Mapping[str, Any]) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    stream = StringIO()
    dumper = YAML()
    dumper.default_flow_style = False
    dumper.dump(dict(data), stream)
    return stream.getvalue()
