"""What came of one cell, and how it is read back from disk. No torch in here."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError
from typing_extensions import TypedDict  # pydantic takes no other before Python 3.12

from adapterzoo.errors import PluginError, UserError

SCHEMA = 3
# Earlier ones have the quantization under the name of base.
QUANTIZATION_SCHEMA = 3
RESULT = "result.json"
TIMES = "times"  # of the last run into a folder, in its note
NOTE = ".adapterzoo.json"
FORGETTING = "forgetting"
# What makes a cell another one under the same label and seed.
SETTINGS = ("method", "plugin", "options", "learning_rate", "quantization")


class Trial(TypedDict):
    """One setting that was tried."""

    settings: dict[str, Any]
    """option -> value"""
    metric: str | None
    score: float | None
    """on the validation rows; None of a failure"""
    loss: float | None
    """there too"""
    seconds: float
    error: str | None


class Tuning(TypedDict):
    """What was tried on the validation rows, and what was chosen."""

    metric: str
    """that decides, the loss among equals"""
    trials: list[Trial]
    chosen: dict[str, Any]
    """option -> value"""
    space: dict[str, Any]
    """the ranges, and how many settings of them"""


@dataclass(frozen=True)
class Result:
    """One cell, or the untouched base (``method`` None)."""

    label: str
    method: str | None
    seed: int
    quantization: str
    """of the base model"""
    status: str = "ok"
    """``ok`` or ``failed``"""
    error: str | None = None
    plugin: str | None = None
    """the package that brought the method, with its version"""
    options: dict[str, Any] = field(default_factory=dict)
    learning_rate: float | None = None
    steps: int | None = None
    metrics: dict[str, FiniteFloat] = field(default_factory=dict)
    """by column; those of answers first, as the recipe has them"""
    lower_is_better: list[str] = field(default_factory=list)
    """columns of metrics, of which the lower value is the better one"""
    trainable_params: int = 0
    total_params: int = 0
    adapter_bytes: int = 0
    adapter_files: dict[str, str] = field(default_factory=dict)
    """file of the adapter's folder -> digest of its content; none where that was not kept yet"""
    record_digests: dict[str, str] = field(default_factory=dict)
    """file of records, predictions.jsonl for instance -> digest of them; none where that was not kept yet"""
    train_seconds: float | None = None
    evaluate_seconds: float | None = None
    seconds: dict[str, float] = field(default_factory=dict)
    """what was done -> how long that took in the run that finished the cell: tuning, wrapping, training, saving,
    measuring, general text"""
    shared_prefix: bool | None = None
    """whether what rows begin with could go through the model once; None where that is not known"""
    answer_seconds: float | None = None
    """that an answer to a test question took, on average"""
    tokens_per_second: float | None = None
    positions_per_token: float | None = None
    """positions that training computed for each real token: above 1 with padding, below 1 with a shared prefix"""
    peak_memory_bytes: int | None = None
    history: list[dict[str, float]] = field(default_factory=list)
    """loss by step"""
    findings: dict[str, Any] = field(default_factory=dict)
    tuning: Tuning | None = None
    budget: int | None = None
    """trainable parameters that were asked for"""
    fingerprints: dict[str, str | None] = field(default_factory=dict)
    """hashes: of the recipe without its methods and seeds, of the data and each of its parts, of the base's weights"""
    recipe: dict[str, Any] = field(default_factory=dict)
    """the recipe with every default, without its methods and seeds"""
    environment: dict[str, Any] = field(default_factory=dict)
    schema: int = SCHEMA

    @property
    def ok(self) -> bool:
        """Whether the cell finished."""
        return self.status == "ok"


_VALID = TypeAdapter(Result)
_CELLS = TypeAdapter(list[tuple[str, int]])


def plain_findings(findings: Any) -> dict[str, Any]:
    """What a method found, as it can be written down.

    Raises:
        PluginError: it is no dictionary, or holds what JSON cannot.
    """
    if not isinstance(findings, dict):
        raise PluginError(f"findings() returned {findings!r}, not a dictionary")
    for key, value in findings.items():
        try:
            json.dumps({key: value}, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise PluginError(f"findings() returned under {key!r} what cannot be written as JSON: {error}") from None
    return {str(key): value for key, value in findings.items()}


def read_results(folder: Path) -> list[tuple[Path, Result]]:
    """All finished cells of an output folder, each with its own folder, by label and seed.

    Raises:
        UserError: it is no output folder, or a result cannot be read.
    """
    found = sorted(folder.glob(f"*/seed-*/{RESULT}"))
    if not found:
        what = "is no folder" if folder.exists() else "there is no such folder"
        what = "holds no results" if folder.is_dir() else what
        raise UserError.at(str(folder), f"{what}.", "Give the --out folder of a run.")
    cells = [(path.parent, read_result(path)) for path in found]
    return sorted(cells, key=lambda cell: (cell[1].label, cell[1].seed))


def run_times(folder: Path) -> dict[str, float]:
    """Return where the time of the last run into an output folder went, in seconds; nothing where it is not known."""
    try:
        times = json.loads((folder / NOTE).read_text(encoding="utf-8"))[TIMES]
        return {str(name): float(seconds) for name, seconds in times.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def unfinished(folder: Path, results: Iterable[Result]) -> dict[str, list[int]]:
    """label -> seeds that the last run into an output folder was to do, and that are not among its results."""
    done = {(result.label, result.seed) for result in results}
    try:
        cells = json.loads((folder / NOTE).read_text(encoding="utf-8"))["cells"]
        planned = _CELLS.validate_python(cells)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):  # of an earlier version, or damaged
        return {}
    missing: dict[str, list[int]] = {}
    for label, seed in planned:
        if (label, seed) not in done:
            missing.setdefault(label, []).append(seed)
    return missing


def _of_schema_1(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """What the first version kept under other names, and the recipe only once for the whole folder."""
    recipe_hash = raw.get("recipe_hash")
    found = {"fingerprints": {"recipe": recipe_hash, "data": raw.get("data_fingerprint")}}
    try:
        note = json.loads((path.parents[2] / NOTE).read_text(encoding="utf-8"))
        return {**found, "recipe": note["identity"]} if note["recipe_hash"] == recipe_hash else found
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        return found


def read_result(path: Path) -> Result:
    """One cell's result.

    Raises:
        UserError: it is damaged, or of a newer version of adapterzoo.
    """
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        if raw["schema"] > SCHEMA:
            raise UserError.at(str(path), f"was written by a newer adapterzoo (schema {raw['schema']}).", "Update.")
        if raw["schema"] == 1:
            raw.update(_of_schema_1(raw, path))
        if raw["schema"] < QUANTIZATION_SCHEMA:
            raw["quantization"] = raw.pop("base")
        # The folders say what it is: they are what people rename and copy.
        label, seed = path.parents[1].name, int(path.parent.name.removeprefix("seed-"))
        known = {item.name for item in fields(Result)}
        known_values = {name: value for name, value in raw.items() if name in known}
        result = _VALID.validate_python({**known_values, "label": label, "seed": seed})
    except ValidationError as error:
        wrong = ", ".join(".".join(map(str, details["loc"])) for details in error.errors())
        raise _damaged(path, wrong) from None
    except OSError as error:
        raise _damaged(path, error.strerror or "it cannot be read") from None
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _damaged(path, "it is no result in JSON") from None
    if result.ok and result.method and not result.metrics:
        return replace(result, status="failed", error=f"{path.parent.name}/{RESULT} holds no metrics")
    return result


def _damaged(path: Path, wrong: str) -> UserError:
    return UserError.at(str(path), f"is damaged: {wrong}.", "Remove its folder and run the recipe again.")
