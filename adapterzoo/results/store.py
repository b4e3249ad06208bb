"""The output folder of a recipe: one folder a cell, whole or not there.

``result.json`` is written last and in one go, so a cell that has one is finished. No torch in here.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from adapterzoo.digests import file_digest, file_digests, records_digest
from adapterzoo.errors import UserError
from adapterzoo.files import aside, write_whole
from adapterzoo.results.result import NOTE, RESULT, TIMES, Result, read_result

PREDICTIONS = "predictions.jsonl"
GENERAL = "general.jsonl"
ADAPTER = "adapter"
CHECKPOINTS = "checkpoints"
TRACEBACK = "traceback.txt"
RECIPE = "recipe.yaml"
LOCK = ".lock"
# What may grow from one run of a recipe to the next: more methods, more seeds.
GROWING = ("methods", "seeds", "name", "jobs", "threads")


class Store:
    """The output folder of one recipe."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: IO[str] | None = None

    def check(self, resolved: Mapping[str, Any], data_hash: str, weights: str | None = None) -> str:
        """Whether the folder is free for a recipe, or this recipe's already: returns the recipe's hash.

        Raises:
            UserError: it holds results of a recipe that differs in more than its methods and seeds, or things
                that are no results at all.
        """
        self.identity = recipe_identity(resolved, data_hash, weights)
        recipe_hash = hashlib.sha256(json.dumps(self.identity, sort_keys=True).encode()).hexdigest()
        note = self.folder / NOTE
        try:
            before = json.loads(note.read_text(encoding="utf-8")) if note.is_file() else None
            if before is not None and before["recipe_hash"] != recipe_hash:
                changes = "; ".join(differences(before["identity"], self.identity))
                raise UserError.at(
                    str(self.folder),
                    f"holds the results of another recipe ({changes}).",
                    "Give --out another folder, or remove that one.",
                )
            ours = (LOCK, aside(note).name)  # of a run that was killed at once
            if before is None and self.folder.exists() and any(one.name not in ours for one in self.folder.iterdir()):
                what = "is there already and is no output folder of adapterzoo."
                raise UserError.at(str(self.folder), what, "Give --out another.")
        except OSError as error:
            raise self._unusable(error) from None
        except (ValueError, KeyError, TypeError):
            raise UserError.at(str(note), "is damaged.", "Give --out another folder, or remove that one.") from None
        return recipe_hash

    def begin(self, resolved: Mapping[str, Any], recipe_hash: str, cells: Sequence[tuple[str, int]] = ()) -> None:
        """Take the folder for a recipe that was checked.

        Args:
            resolved: the recipe with every default.
            recipe_hash: what ``check`` returned.
            cells: label and seed of all that is to be done, so that what is missing can be told.

        Raises:
            UserError: it cannot be written.
        """
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock()
            note = {"recipe_hash": recipe_hash, "identity": self.identity, "cells": cells, "threads": self.threads()}
            write_whole(self.folder / NOTE, json.dumps(note, indent=1))
            write_whole(self.folder / RECIPE, _yaml(resolved))
        except OSError as error:
            raise self._unusable(error) from None

    def _lock(self) -> None:
        """Keep other runs out until :meth:`release`: two would write the same cells.

        Raises:
            UserError: another run is at work.
        """
        try:
            import fcntl
        except ImportError:  # Windows
            return
        self._held = (self.folder / LOCK).open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            hint = "Wait for it, or give --out another folder."
            raise UserError.at(str(self.folder), "another run is writing there.", hint) from None
        except OSError:  # a file system that knows no locks
            return

    def release(self) -> None:
        """Let other runs in again."""
        if self._held is not None:
            self._held.close()
            self._held = None

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
        write_whole(self.folder / NOTE, json.dumps({**self._note(), "threads": number}, indent=1))

    def keep_times(self, times: Mapping[str, float]) -> None:
        """Keep where the time of this run went, in seconds."""
        write_whole(self.folder / NOTE, json.dumps({**self._note(), TIMES: dict(times)}, indent=1))

    def _note(self) -> dict[str, Any]:
        note: dict[str, Any] = json.loads((self.folder / NOTE).read_text(encoding="utf-8"))
        return note

    def label(self, label: str) -> Path:
        """The folder of all cells of a label."""
        return self.folder / label

    def cell(self, label: str, seed: int) -> Path:
        """The folder of one cell."""
        return self.folder / label / f"seed-{seed}"

    def of(self, label: str) -> list[Result]:
        """The results of a label, of whatever seeds."""
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
            write_whole(marker, wanted)
        return folder

    def write(
        self,
        result: Result,
        predictions: Iterable[Mapping[str, Any]] = (),
        general: Iterable[Mapping[str, Any]] = (),
        *,
        keep_checkpoints: bool = False,
    ) -> None:
        """Put down a cell: its predictions and what became of general text, then, in one go, its result."""
        folder = self.cell(result.label, result.seed)
        folder.mkdir(parents=True, exist_ok=True)
        for name, records in ((PREDICTIONS, list(predictions)), (GENERAL, list(general))):
            if records:
                write_whole(folder / name, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in records))
                result.record_digests[name] = records_digest(records)
        write_whole(folder / RESULT, json.dumps(asdict(result), indent=1, ensure_ascii=False) + "\n")
        if not keep_checkpoints:
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


def recipe_identity(resolved: Mapping[str, Any], data_hash: str, weights: str | None) -> dict[str, Any]:
    """What must not differ between rows of one table: all but the methods and seeds; data and model by content."""
    data = {name: value for name, value in resolved["data"].items() if name not in ("source", "split")}
    evaluate = dict(resolved.get("evaluate", {}))
    for section, key in ((data, "chat_template"), (evaluate, "general_text")):
        if Path(section.get(key, "")).is_file():
            section[key] = hashlib.sha256(Path(section[key]).read_bytes()).hexdigest()
    identity = {name: value for name, value in resolved.items() if name not in GROWING}
    identity["evaluate"] = evaluate
    if identity.pop("tune", None):
        # Settings are chosen with the first seed.
        identity["tune"] = {**resolved["tune"], "seed": resolved["seeds"][0]}
    identity["model"] = {**identity.get("model", {}), "weights": weights}
    identity["data"] = {**data, "rows": data_hash}
    # Each method's learning rate is kept with its cell.
    identity["train"] = {name: value for name, value in identity["train"].items() if name != "learning_rate"}
    return identity


def folder_bytes(folder: Path) -> int:
    """Size of the weights in an adapter's folder."""
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


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """What differs between two recipes, a line for each key."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            line for key in keys for line in differences(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
        ]
    if path == "data.rows" and before != after:
        return ["the rows of the data are others"]
    return [] if before == after else [f"{path}: {before!r} there, {after!r} here"]


def _yaml(data: Mapping[str, Any]) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    stream = StringIO()
    dumper = YAML()
    dumper.default_flow_style = False
    dumper.dump(dict(data), stream)
    return stream.getvalue()
