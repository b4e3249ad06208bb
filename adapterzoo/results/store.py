"""The output folder of a recipe: one folder a cell, whole or not there.

``result.json`` is written last and in one go, so a cell that has one is finished. No torch in here.
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
TRACEBACK = "traceback.txt"
RECIPE = "recipe.yaml"
LOCK = ".lock"


class Store:
    """The output folder of one recipe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = FileLock(folder / LOCK, timeout=0)

    def check(self, identity: Mapping[str, Any]) -> None:
        """Make sure that the folder is free for a recipe, or holds results of this recipe.

        Args:
            identity: what :func:`recipe_identity` gives for the recipe.

        Raises:
            UserError: it holds results of a recipe that differs in more than its methods and seeds, or other files.
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
            ours = (LOCK, temporary_path(note).name)  # left by a run that was killed at once
            if before is None and self.folder.exists() and any(p.name not in ours for p in self.folder.iterdir()):
                what = "is there already and is no output folder of adapterzoo."
                raise UserError.at(str(self.folder), what, "Give --out another.")
        except OSError as error:
            raise self._unusable(error) from None
        except (ValueError, KeyError, TypeError):
            raise UserError.at(str(note), "is damaged.", "Give --out another folder, or remove that one.") from None

    def begin(
        self, resolved: Mapping[str, Any], identity: Mapping[str, Any], cells: Sequence[tuple[str, int]] = ()
    ) -> None:
        """Take the folder for a recipe, and keep other runs out until :meth:`release`.

        Args:
            resolved: the recipe with every default.
            identity: what :meth:`check` was given.
            cells: label and seed of every cell of the run: so it is known later which ones are missing.

        Raises:
            UserError: it cannot be written, or another run is writing there.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(NotImplementedError):  # a file system without locks
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
        """Let other runs in again."""
        self._lock.release()

    def _unusable(self, error: OSError) -> UserError:
        return UserError.at(f"--out {self.folder}", f"cannot be written: {error.strerror}.", "Give another folder.")

    def weights(self) -> str | None:
        """Which weights of the model its results were made on; None where that is not known."""
        try:
            known: str | None = self._note()["identity"]["model"]["weights"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return known

    def threads(self) -> int | None:
        """Return the number of threads that its cells have, chosen once for all of them; None before that."""
        try:
            known = self._note()["threads"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return known if isinstance(known, int) and known > 0 else None

    def keep_threads(self, number: int) -> None:
        """Keep the number of threads for the cells of later runs: another one rounds otherwise."""
        write_atomically(self.folder / NOTE, json.dumps({**self._note(), "threads": number}, indent=1))

    def keep_times(self, times: Mapping[str, float]) -> None:
        """Keep where the time of this run went, in seconds."""
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

    def of(self, label: str) -> list[Result]:
        """Return the results of a label, of all seeds that are there."""
        return [read_result(path) for path in sorted((self.folder / label).glob(f"seed-*/{RESULT}"))]

    def clear(self, label: str, seed: int, settings: Mapping[str, Any]) -> Path:
        """Empty the folder of a cell of older results.

        Args:
            label: of the cell.
            seed: of the cell.
            settings: all that its training depends on beside the recipe. Checkpoints of the same settings are kept:
                training goes on from them.
        """
        folder = self.cell(label, seed)
        for name in (RESULT, PREDICTIONS, GENERAL, TRACEBACK):
            (folder / name).unlink(missing_ok=True)
        shutil.rmtree(folder / ADAPTER, ignore_errors=True)
        marker, wanted = folder / CHECKPOINTS / "settings.json", json.dumps(settings, sort_keys=True)
        if not marker.is_file() or marker.read_bytes() != wanted.encode():
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            marker.parent.mkdir(parents=True)
            write_atomically(marker, wanted)
        return folder

    def write(
        self,
        result: Result,
        predictions: Iterable[Mapping[str, Any]] = (),
        general: Iterable[Mapping[str, Any]] = (),
        *,
        keep_checkpoints: bool = False,
    ) -> Result:
        """Write a cell: its predictions and what became of general text, then, in one go, its result.

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


def folder_bytes(folder: Path) -> int:
    """Return the size of the weights in an adapter's folder."""
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def adapter_files(folder: Path) -> dict[str, str]:
    """Return the digest of each file in an adapter's folder, by its path there."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in files}


def changed_files(cell: Path, result: Result) -> list[str]:
    """Return the files of a cell's adapter that are not what the run wrote: changed, or gone.

    An adapter that was removed as a whole, to save room for instance, is not among them.

    Args:
        cell: the cell's folder.
        result: which says what was written.
    """
    folder = cell / ADAPTER
    if not folder.is_dir():
        return []
    try:
        there = file_digests(folder / name for name in result.adapter_files if (folder / name).is_file())
    except OSError:  # what cannot be read is compared as if it were not there
        there = {}
    return [f"{ADAPTER}/{name}" for name, digest in result.adapter_files.items() if there.get(folder / name) != digest]


def _yaml(data: Mapping[str, Any]) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    stream = StringIO()
    dumper = YAML()
    dumper.default_flow_style = False
    dumper.dump(dict(data), stream)
    return stream.getvalue()
