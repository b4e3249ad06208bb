"""Write and read the output folder of a recipe, which has one folder for each cell.

``result.json`` is written last, in one step, so a cell that has one is finished. This module does not import torch.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adapterzoo.digests import records_digest
from adapterzoo.errors import UserError
from adapterzoo.files import remove, write_atomically
from adapterzoo.machine.stopping import StoppedError
from adapterzoo.results.claim_files import chosen_threads, is_overtaken, live_claim, remove_claims
from adapterzoo.results.identity import identity_hash
from adapterzoo.results.note import TIMES, UNREADABLE, read_note, write_note
from adapterzoo.results.reading import StoredResults, stored_results
from adapterzoo.results.result import RESULT, Result, result_text
from adapterzoo.results.suitable import LOCK, readable_results, unusable

PREDICTIONS = "predictions.jsonl"
GENERAL = "general.jsonl"
ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
SETTINGS = f"{CHECKPOINTS}/settings.json"
TRACEBACK = "traceback.txt"
RECIPE = "recipe.yaml"
WIDTH = 4096
"""columns of a line in the recipe, so that no path is broken into two lines"""


class Store:
    """The output folder of one recipe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.claim: Path | None = None
        """claim of the only cell that this process writes; None if it needs none"""
        self._lock = FileLock(folder / LOCK, timeout=0)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        """Leave the lock out when the store is sent to another process: this one holds it for both."""
        return type(self), (self.folder,)

    def begin(
        self, resolved: Mapping[str, Any], identity: Mapping[str, Any], cells: Sequence[tuple[str, int]] = ()
    ) -> None:
        """Create the folder for a recipe, and lock it for other runs until :meth:`release`.

        Args:
            resolved: the recipe with every default.
            identity: the recipe's identity, as given to :func:`check_recipe`.
            cells: label and seed of every cell of the run, so that the missing ones are known later.

        Raises:
            UserError: the folder cannot be written, or another run is writing into it.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with suppress(NotImplementedError):  # some file systems have no locks
                self._lock.acquire()
            if (claim := live_claim(self.folder)) is not None:
                self.release()
                what = f"workers are at work there (.claims/{claim.name})."
                hint = "Wait for them, end them, or start one more: adapterzoo work."
                raise UserError.at(str(self.folder), what, hint)
            note = {
                "recipe_hash": identity_hash(identity),
                "identity": identity,
                "cells": cells,
                "threads": self.threads(),
            }
            remove_claims(self.folder)  # with the number of threads, if workers were stopped before they kept it
            write_note(self.folder, note)
            write_atomically(self.folder / RECIPE, yaml_text(resolved))
        except Timeout:
            hint = "Wait for it, or give --out another folder."
            raise UserError.at(str(self.folder), "another run is writing there.", hint) from None
        except OSError as error:
            raise unusable(self.folder, error) from None

    def release(self) -> None:
        """Unlock the folder for other runs."""
        self._lock.release()

    def locked(self) -> bool:
        """Tell whether a run has the folder for itself."""
        try:
            with suppress(NotImplementedError), self._lock:
                return False
        except Timeout:
            return True
        return False

    def weights(self) -> str | None:
        """Return the hash of the base model's weights in this folder's runs; None if it is not known."""
        try:
            weights: str | None = read_note(self.folder)["identity"]["model"]["weights"]
        except UNREADABLE:
            return None
        return weights

    def threads(self) -> int | None:
        """Return the number of threads of each cell in this folder; None if it was not chosen yet."""
        return next((number for number in self._chosen_threads() if isinstance(number, int) and number > 0), None)

    def _chosen_threads(self) -> Iterator[Any]:
        with suppress(*UNREADABLE):
            yield read_note(self.folder)["threads"]
        yield chosen_threads(self.folder)
        for result in readable_results(self.folder):
            yield result.environment.get("threads")

    def keep_threads(self, number: int) -> None:
        """Keep the number of threads for later runs, because sums are rounded differently with another number."""
        write_note(self.folder, {**read_note(self.folder), "threads": number})

    def keep_times(self, times: Mapping[str, float]) -> None:
        """Keep the seconds of each activity of this run."""
        write_note(self.folder, {**read_note(self.folder), TIMES: dict(times)})

    def label(self, label: str) -> Path:
        """Return the folder of all cells of a label."""
        return self.folder / label

    def cell(self, label: str, seed: int) -> Path:
        """Return the folder of one cell."""
        return self.folder / label / f"seed-{seed}"

    def results_of(self, label: str) -> StoredResults:
        """Return the results of all seeds of a label.

        Raises:
            UserError: a newer adapterzoo has written one.
        """
        return stored_results(sorted((self.folder / label).glob(f"seed-*/{RESULT}")))

    def discard(self, label: str, seed: int) -> Path:
        """Remove the result of a cell, and files that have the names of its folders; return the cell's folder.

        Raises:
            StoppedError: see :meth:`require_claim`.
        """
        self.require_claim()
        folder = self.cell(label, seed)
        for path in (self.label(label), folder, folder / CHECKPOINTS):
            if not path.is_dir():
                remove(path)
        remove(folder / RESULT)
        return folder

    def clear(self, label: str, seed: int, settings: Mapping[str, Any]) -> Path:
        """Remove older results from the folder of a cell; return the folder.

        Args:
            label: label of the cell.
            seed: seed of the cell.
            settings: everything that its training depends on beside the recipe. Checkpoints with the same settings
                are kept, because training resumes from them.

        Raises:
            StoppedError: see :meth:`require_claim`.
        """
        folder = self.discard(label, seed)
        unfinished = [path.name for path in folder.glob(".*.new")] if self.claim is not None else []
        for name in (PREDICTIONS, GENERAL, TRACEBACK, ADAPTER, *unfinished):
            remove(folder / name)
        if not self.suits(folder, settings):
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
            (folder / CHECKPOINTS).mkdir(parents=True, exist_ok=True)
            write_atomically(folder / SETTINGS, _text(settings))
        return folder

    def suits(self, folder: Path, settings: Mapping[str, Any]) -> bool:
        """Tell whether the checkpoints in a cell's folder are of trainings with these settings."""
        marker = folder / SETTINGS
        return marker.is_file() and marker.read_bytes() == _text(settings).encode()

    def require_claim(self) -> None:
        """Raise StoppedError if another worker has the cell, because it saw no sign of life of this one."""
        if self.claim is not None and is_overtaken(self.claim):
            raise StoppedError

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

        Raises:
            StoppedError: see :meth:`require_claim`.
        """
        self.require_claim()
        folder = self.cell(result.label, result.seed)
        folder.mkdir(parents=True, exist_ok=True)
        # One that was asleep, and whose cell another worker has, may be in the middle of writing.
        writer = self.claim.name.rpartition(".")[2] if self.claim is not None else ""
        digests = {}
        for name, records in ((PREDICTIONS, list(predictions)), (GENERAL, list(general))):
            if records:
                lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
                write_atomically(folder / name, "".join(lines), writer)
                digests[name] = records_digest(records)
        written = replace(result, record_digests={**result.record_digests, **digests})
        write_atomically(folder / RESULT, result_text(written), writer)
        if not keep_checkpoints:
            self.remove_checkpoints(result.label, result.seed)
        return written

    def remove_checkpoints(self, label: str, seed: int) -> None:
        """Remove the checkpoints of a cell that needs them no longer."""
        shutil.rmtree(self.cell(label, seed) / CHECKPOINTS, ignore_errors=True)


def _text(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def yaml_text(data: Mapping[str, Any]) -> str:
    """Return data as YAML, without line breaks in long texts."""
    from io import StringIO

    from ruamel.yaml import YAML

    stream = StringIO()
    dumper = YAML()
    dumper.default_flow_style = False
    dumper.width = WIDTH
    dumper.dump(dict(data), stream)
    return stream.getvalue()
