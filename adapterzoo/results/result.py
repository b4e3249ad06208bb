"""The result of one cell, and how to read it from disk. This module does not import torch."""

from __future__ import annotations

import glob
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from adapterzoo.digests import is_intact, signed
from adapterzoo.errors import PluginError, Problem, UserError
from adapterzoo.files import link_out_of, read_text
from adapterzoo.results.note import MAX_BYTES, NOTE, UNREADABLE, read_note

SCHEMA = 3
QUANTIZATION_SCHEMA = 3  # in earlier schemas the key of the quantization is "base"
RESULT = "result.json"
FORGETTING = "forgetting"
MAX_FOLDERS_SHOWN = 3
MAX_DIGITS = 30
SECTIONS = ("model", "data", "train", "evaluate")  # sections of the recipe that a comparison reads
# Fields that must not differ between the results of one label.
SETTINGS = ("method", "plugin", "options", "learning_rate", "quantization")


class Trial(TypedDict):
    """One trial of tuning."""

    settings: dict[str, Any]
    """option -> value"""
    metric: str | None
    score: float | None
    """score on the validation rows; None if the trial failed"""
    loss: float | None
    """loss on the validation rows; None if the trial failed"""
    seconds: FiniteFloat
    error: str | None


class Tuning(TypedDict):
    """The trials on the validation rows, and the settings that were chosen."""

    metric: str
    """metric that decides; if scores are equal, the loss decides"""
    trials: list[Trial]
    chosen: dict[str, Any]
    """option -> value"""
    space: dict[str, Any]
    """ranges of the options, and number of trials"""


@dataclass(frozen=True)
class Result:
    """The result of one cell."""

    label: str
    method: str | None
    """None for the untouched base model"""
    seed: int
    quantization: str
    """quantization of the base model"""
    status: str = "ok"
    """``ok`` or ``failed``"""
    error: str | None = None
    plugin: str | None = None
    """package of the method, with its version"""
    options: dict[str, Any] = field(default_factory=dict)
    """option of the method -> value"""
    learning_rate: FiniteFloat | None = None
    steps: int | None = None
    metrics: dict[str, FiniteFloat] = field(default_factory=dict)
    """column -> value; metrics of answers come first, in the recipe's order"""
    lower_is_better: list[str] = field(default_factory=list)
    """columns of metrics for which a lower value is better"""
    joint_metrics: list[str] = field(default_factory=list)
    """columns of metrics that are known only for all examples together, so that they have no interval"""
    trainable_params: int = 0
    head_params: int = 0
    """parameters of a task's new head, which every method trains; they are not in ``trainable_params``"""
    total_params: int = 0
    adapter_bytes: int = 0
    adapter_files: dict[str, str] = field(default_factory=dict)
    """file in the adapter's folder -> digest of its content; empty in results of old versions"""
    trained_in: str | None = None
    """output folder of the run that trained the adapter, if it was only measured here"""
    record_digests: dict[str, str] = field(default_factory=dict)
    """file of records, such as predictions.jsonl -> digest of the records; empty in results of old versions"""
    train_seconds: FiniteFloat | None = None
    evaluate_seconds: FiniteFloat | None = None
    seconds: dict[str, FiniteFloat] = field(default_factory=dict)
    """activity (tuning, wrapping, training, saving, measuring, general text) -> its seconds in the run that finished
    the cell"""
    shared_prefix: bool | None = None
    """whether the common prefix of rows could go through the model only once; None if that is not known"""
    answer_seconds: FiniteFloat | None = None
    """mean time of an answer to a test example"""
    tokens_per_second: FiniteFloat | None = None
    positions_per_token: FiniteFloat | None = None
    """positions that training computed for each token: above 1 with padding, below 1 with a shared prefix"""
    peak_memory_bytes: int | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    """loss by step"""
    broken_rules: dict[str, str] = field(default_factory=dict)
    """rule of the comparison that the method broke and does not declare -> what it did; the row is not ranked"""
    declared_departures: dict[str, str] = field(default_factory=dict)
    """rule of the comparison that the method declares to depart from -> what it did"""
    counted: dict[str, float] = field(default_factory=dict)
    """what was counted in training, outside of the method's code -> number: optimizer steps, batches, and others"""
    findings: dict[str, Any] = field(default_factory=dict)
    """what the method reports about its training, such as the ranks that it chose"""
    tuning: Tuning | None = None
    budget: int | None = None
    """number of trainable parameters that the recipe asked for"""
    fingerprints: dict[str, str | None] = field(default_factory=dict)
    """hashes of the recipe without methods and seeds, of the data, of each split, and of the base model's weights"""
    recipe: dict[str, Any] = field(default_factory=dict)
    """the recipe with every default, without its methods and seeds"""
    environment: dict[str, Any] = field(default_factory=dict)
    """package versions and hardware"""
    schema: int = SCHEMA

    @property
    def ok(self) -> bool:
        """Whether the cell finished."""
        return self.status == "ok"


_RESULT_TYPE = TypeAdapter(Result)


def plain_findings(findings: Any) -> dict[str, Any]:
    """Return a method's findings with texts as keys, after checking that they can be written as JSON.

    Raises:
        PluginError: they are not a dictionary, or cannot be written as JSON.
    """
    if not isinstance(findings, dict):
        raise PluginError(f"findings() returned {findings!r}, not a dictionary")
    for key, value in findings.items():
        try:
            json.dumps({key: value}, allow_nan=False)
        except (TypeError, ValueError) as error:
            what = f"findings() returned a value for {key!r} that cannot be written as JSON"
            raise PluginError(f"{what}: {error}") from None
    return {str(key): value for key, value in findings.items()}


class DamagedResultError(UserError):
    """The result of a cell cannot be read, or is not what the run wrote."""


class StoredResults(NamedTuple):
    """The results of an output folder, and the damaged ones."""

    cells: list[tuple[Path, Result]]
    """folder of each cell and its result, in the order of label and seed"""
    damaged: dict[Path, Problem]
    """folder of each cell whose result cannot be used -> what is wrong"""


def read_results(folder: Path) -> StoredResults:
    """Return the results in an output folder.

    Raises:
        UserError: it is not an output folder, all its results are damaged, a newer adapterzoo has written one, or a
            link leads out of it.
    """
    paths = sorted(folder.glob(f"*/seed-*/{RESULT}"))
    if not paths:
        what = "is not a folder" if folder.exists() else "there is no such folder"
        what = "holds no results" if folder.is_dir() else what
        raise UserError.at(str(folder), f"{what}.", f"Give the --out folder of a run.{_with_overrides(folder)}")
    refuse_links(folder)
    stored = stored_results(paths)
    if not stored.cells:
        raise UserError(*stored.damaged.values())
    return stored


def stored_results(paths: Iterable[Path]) -> StoredResults:
    """Return the results in files.

    Raises:
        UserError: a newer adapterzoo has written one.
    """
    cells, damaged = [], {}
    for path in paths:
        try:
            cells.append((path.parent, read_result(path)))
        except DamagedResultError as error:
            damaged[path.parent] = error.problems[0]
    return StoredResults(sorted(cells, key=lambda cell: (cell[1].label, cell[1].seed)), damaged)


def refuse_links(folder: Path) -> None:
    """Raise UserError if a link leads out of an output folder: a stranger's folder must not reach other files."""
    if link := link_out_of(folder):
        raise UserError.at(str(link), f"is a link that leads out of {folder}.", "Put the file itself in its place.")


def _with_overrides(folder: Path) -> str:
    """Return a sentence that names the folders of runs of the same recipe with --set; empty if there are none."""
    folders = folder.parent.glob(f"{glob.escape(folder.name)}-????????")
    notes = sorted((path / NOTE for path in folders if (path / NOTE).is_file()), key=lambda note: note.stat().st_mtime)
    newest = [str(note.parent) for note in notes[: -MAX_FOLDERS_SHOWN - 1 : -1]]
    return f" Runs with --set have folders of their own: {', '.join(newest)}." if newest else ""


def _from_schema_1(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields that schema 1 keeps under other names, and the recipe, which it keeps once per folder."""
    recipe_hash = raw.get("recipe_hash")
    values = {"fingerprints": {"recipe": recipe_hash, "data": raw.get("data_fingerprint")}}
    try:
        note = read_note(path.parents[2])
        return {**values, "recipe": note["identity"]} if note["recipe_hash"] == recipe_hash else values
    except (*UNREADABLE, IndexError):
        return values


def read_result(path: Path) -> Result:
    """Read the result of one cell.

    Raises:
        DamagedResultError: the file is damaged.
        UserError: it was written by a newer version of adapterzoo.
    """
    try:
        raw = json.loads(read_text(path, MAX_BYTES), parse_int=_whole_number)
        intact = is_intact(raw)
        if raw["schema"] > SCHEMA and intact:
            what = f"was written by a newer adapterzoo (schema {raw['schema']})."
            raise UserError.at(str(path), what, "Update adapterzoo.")
        if raw["schema"] == 1:
            raw.update(_from_schema_1(raw, path))
        if raw["schema"] < QUANTIZATION_SCHEMA:
            raw["quantization"] = raw.pop("base")
        # Take label and seed from the folders' names, because people rename and copy folders.
        label, seed = path.parents[1].name, int(path.parent.name.removeprefix("seed-"))
        names = {field.name for field in fields(Result)}
        values = {name: value for name, value in raw.items() if name in names}
        result = _RESULT_TYPE.validate_python({**values, "label": label, "seed": seed})
        if not (_has_mappings(result.recipe, SECTIONS) and _has_mappings(result.environment, ("packages",))):
            raise ValueError("a section is no mapping")
    except ValidationError as error:
        keys = ", ".join(".".join(map(str, details["loc"])) for details in error.errors())
        raise _damaged(path, f"wrong values of {keys}") from None
    except OSError as error:
        raise _damaged(path, error.strerror or "it cannot be read") from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise _damaged(path, "it is not a result in JSON") from None
    if result.ok and result.method and not result.metrics:
        return replace(result, status="failed", error=f"{path.parent.name}/{RESULT} holds no metrics")
    if not intact:
        raise _damaged(path, "it is not what the run wrote")
    return result


def _has_mappings(values: Mapping[str, Any], names: Iterable[str]) -> bool:
    """Tell whether the values of these names are mappings; they may be missing."""
    return all(isinstance(values.get(name, {}), dict) for name in names)


def _whole_number(digits: str) -> int:
    """Return a whole number of a result.

    Raises:
        ValueError: it has more digits than anything that is counted, and would not fit into a float.
    """
    if len(digits) > MAX_DIGITS:
        raise ValueError(f"{digits:.10}... has {len(digits)} digits")
    return int(digits)


def result_text(result: Result) -> str:
    """Return the content of the file of a result."""
    return json.dumps(signed(asdict(result)), indent=1, ensure_ascii=False) + "\n"


def _damaged(path: Path, why: str) -> DamagedResultError:
    problem = Problem(str(path), f"is damaged: {why}.", "Run the recipe again: it makes this cell again.")
    return DamagedResultError(problem)
