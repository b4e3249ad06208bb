"""The result of one cell. This module does not import torch."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from pydantic import FiniteFloat
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from adapterzoo.digests import signed
from adapterzoo.errors import PluginError

SCHEMA = 3
RESULT = "result.json"
FORGETTING = "forgetting"
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


def result_text(result: Result) -> str:
    """Return the content of the file of a result."""
    return json.dumps(signed(asdict(result)), indent=1, ensure_ascii=False) + "\n"
