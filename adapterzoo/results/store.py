"""Write and read the output folder of a recipe, which has one folder for each cell.

``result.json`` is written last, in one step, so a cell that has one is finished. This module does not import torch.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from adapterzoo.digests import records_digest
from adapterzoo.errors import UserError, is_disk_full
from adapterzoo.files import remove, temporary_path, write_atomically
from adapterzoo.machine.stopping import StoppedError
from adapterzoo.results.claims import is_overtaken, live_claim, remove_claims
from adapterzoo.results.identity import differences, identity_hash, without_changeable
from adapterzoo.results.note import NOTE, TIMES, UNREADABLE, read_note, write_note
from adapterzoo.results.result import (
    RESULT,
    Result,
    StoredResults,
    read_results,
    refuse_links,
    result_text,
    stored_results,
)

PREDICTIONS = "predictions.jsonl"
GENERAL = "general.jsonl"
ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
SETTINGS = f"{CHECKPOINTS}/settings.json"
TRACEBACK = "traceback.txt"
RECIPE = "recipe.yaml"
LOCK = ".lock"
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

    def check(self, identity: Mapping[str, Any]) -> str | None:
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
        if os.path.lexists(self.folder / NOTE) or any(self.folder.glob(f"*/seed-*/{RESULT}")):
            refuse_links(self.folder)
        message = None
        try:
            if not self._holds_files():
                return None
            try:
                before: list[dict[str, Any]] = [read_note(self.folder)["identity"]]
            except UNREADABLE as error:
                is_missing = isinstance(error, FileNotFoundError)
                before = [result.recipe for result in self._readable_results() if result.recipe]
                if not before:
                    raise self._unknown(is_missing) from None
                what = "is missing" if is_missing else "is damaged"
                message = f"{self.folder / NOTE} {what}, and is made again: the results are of the same recipe"
        except OSError as error:
            raise self._unusable(error) from None
        for other in map(without_changeable, before):
            model, own = other.get("model"), identity.get("model", {})
            if isinstance(model, dict) and own.get("weights") is not None and model.get("weights") == own["weights"]:
                other["model"] = {**model, "name": own["name"]}  # the same files in another folder are the same model
            if identity_hash(other) != identity_hash(identity):
                changes = "; ".join(differences(other, identity))
                what = f"holds the results of another recipe ({changes})."
                raise UserError.at(str(self.folder), what, "Give --out another folder, or remove that one.")
        return message

    def check_place(self) -> None:
        """Raise UserError if the folder cannot be the output folder of any recipe; this reads no data and no model."""
        try:
            place = next(path for path in (self.folder, *self.folder.absolute().parents) if path.exists())
            if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
                code = errno.EACCES if place.is_dir() else errno.ENOTDIR
                raise OSError(code, os.strerror(code))
            is_ours = (self.folder / NOTE).exists() or any(self.folder.glob(f"*/seed-*/{RESULT}"))
            if self._holds_files() and not is_ours:
                raise self._unknown(is_missing=True)
        except OSError as error:
            raise self._unusable(error) from None

    def _holds_files(self) -> bool:
        """Tell whether the folder holds anything but what a run that was killed at its start may have left."""
        ours = (LOCK, temporary_path(self.folder / NOTE).name)
        return self.folder.exists() and any(path.name not in ours for path in self.folder.iterdir())

    def _readable_results(self) -> list[Result]:
        """Return the results in the folder, without damaged ones."""
        with suppress(UserError):
            return [result for _, result in read_results(self.folder).cells]
        return []

    def _unknown(self, is_missing: bool) -> UserError:
        """Return the error of a folder without a note and without results."""
        if is_missing:
            what = "is not empty and is not an output folder of adapterzoo."
            return UserError.at(str(self.folder), what, "Give --out another folder.")
        what = "is damaged, and no result in its folder shows the recipe."
        return UserError.at(str(self.folder / NOTE), what, "Give --out another folder, or remove that one.")

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
            if (claim := live_claim(self.folder)) is not None:
                self.release()
                what = f"workers are at work there (.claims/{claim.name})."
                hint = "Wait for them, end them, or start one more: adapterzoo work."
                raise UserError.at(str(self.folder), what, hint)
            remove_claims(self.folder)
            note = {
                "recipe_hash": identity_hash(identity),
                "identity": identity,
                "cells": cells,
                "threads": self.threads(),
            }
            write_note(self.folder, note)
            write_atomically(self.folder / RECIPE, yaml_text(resolved))
        except Timeout:
            hint = "Wait for it, or give --out another folder."
            raise UserError.at(str(self.folder), "another run is writing there.", hint) from None
        except OSError as error:
            raise self._unusable(error) from None

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

    def _unusable(self, error: OSError) -> UserError:
        hint = "Free some space on its disk, or give another folder." if is_disk_full(error) else "Give another folder."
        return UserError.at(f"--out {self.folder}", f"cannot be written: {error.strerror}.", hint)

    def weights(self) -> str | None:
        """Return the hash of the base model's weights in this folder's runs; None if it is not known."""
        try:
            weights: str | None = read_note(self.folder)["identity"]["model"]["weights"]
        except UNREADABLE:
            return None
        return weights

    def threads(self) -> int | None:
        """Return the number of threads of each cell in this folder; None if it was not chosen yet."""
        try:
            numbers = [read_note(self.folder)["threads"]]
        except UNREADABLE:
            numbers = [result.environment.get("threads") for result in self._readable_results()]
        return next((number for number in numbers if isinstance(number, int) and number > 0), None)

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
        """Remove the result of a cell, and files that have the names of its folders; return the cell's folder."""
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
        """
        folder = self.discard(label, seed)
        for name in (PREDICTIONS, GENERAL, TRACEBACK, ADAPTER):
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
            StoppedError: another worker has the cell, because it saw no sign of life of this one.
        """
        if self.claim is not None and is_overtaken(self.claim):
            raise StoppedError
        folder = self.cell(result.label, result.seed)
        folder.mkdir(parents=True, exist_ok=True)
        digests = {}
        for name, records in ((PREDICTIONS, list(predictions)), (GENERAL, list(general))):
            if records:
                lines = (json.dumps(record, ensure_ascii=False) + "\n" for record in records)
                write_atomically(folder / name, "".join(lines))
                digests[name] = records_digest(records)
        written = replace(result, record_digests={**result.record_digests, **digests})
        write_atomically(folder / RESULT, result_text(written))
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
