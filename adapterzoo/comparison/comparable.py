"""Group the results that can be ranked against each other, and name what keeps other results apart."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from adapterzoo.recipe.train import ON_EVALUATION
from adapterzoo.results.identity import differences
from adapterzoo.results.result import Result

# Recipe keys that change no score: they say what else is measured or written during the run.
KEYS_WITHOUT_EFFECT = {
    "evaluate": ("metrics", "base", "shots", "general_text"),
    "train": ("save_steps", "save_limit", "time_limit", "eval_steps", "loggers"),
}
# Recipe sections that set a row's size and options. They may differ within a table, because every row shows them.
SECTIONS_OF_ROWS = ("budget", "tune")
# Packages that only read the data. Their versions do not matter, because the content of the data is compared.
READERS = ("datasets",)
# Parts of the environment that change a row's costs, but not its scores.
HARDWARE = ("processor", "cores", "threads", "jobs", "platform", "gpu")


def comparability_key(result: Result) -> dict[str, Any]:
    """Return everything that a result's scores depend on, apart from its method and seed, as plain data."""
    recipe = {
        section: {key: value for key, value in content.items() if key not in KEYS_WITHOUT_EFFECT.get(section, ())}
        if isinstance(content, dict)
        else content
        for section, content in result.recipe.items()
        if section not in SECTIONS_OF_ROWS
    }
    if (train := result.recipe.get("train", {})).get("scheduler") in ON_EVALUATION:
        recipe["train"]["eval_steps"] = train.get("eval_steps")
    if not recipe:  # a result of schema 1 that was moved out of its output folder
        recipe = {"hash": result.fingerprints.get("recipe")}
    # Rows and weights are compared below, under keys of their own, by their fingerprints.
    recipe.get("data", {}).pop("rows", None)
    model = recipe.get("model", {})
    if (weights := model.pop("weights", None)) is not None:
        model.pop("name", None)  # the same files in another folder are the same model
    packages = result.environment.get("packages") or {}
    parts = {name: result.fingerprints[name] for name in ("train", "validation", "test") if name in result.fingerprints}
    return {
        **recipe,
        "rows": parts or {"all": result.fingerprints.get("data")},
        "weights": result.fingerprints.get("weights", weights),
        "packages": {name: version for name, version in packages.items() if name not in READERS},
        "device": result.environment.get("device"),
    }


def comparable_groups(results: Sequence[Result]) -> list[list[Result]]:
    """Return the results in groups that can be compared, in the order of each group's first result."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(json.dumps(comparability_key(result), sort_keys=True, default=str), []).append(result)
    return list(groups.values())


def what_differs(first: Result, second: Result) -> list[str]:
    """Return why two results cannot be ranked against each other, one line for each reason."""
    lines = []
    first_key, second_key = comparability_key(first), comparability_key(second)
    first_rows, second_rows = first_key.pop("rows"), second_key.pop("rows")
    if first_rows != second_rows:
        changed = [name for name in first_rows if name in second_rows and first_rows[name] != second_rows[name]]
        lines += [f"the {name} rows differ" for name in changed if name != "all"] or ["the data rows differ"]
    if first_key.pop("weights") != second_key.pop("weights"):
        lines.append("the weights of the base model differ")
    return lines + differences(first_key, second_key)


def hardware(result: Result) -> dict[str, Any]:
    """Return the parts of a result's environment that change its costs."""
    return {name: result.environment.get(name) for name in HARDWARE}


def hardware_differs(results: Sequence[Result]) -> list[str]:
    """Return why the costs of these results cannot be compared, one line for each reason."""
    values = {name: sorted({str(hardware(result)[name]) for result in results}) for name in HARDWARE}
    return [f"{name}: {' and '.join(different)}" for name, different in values.items() if len(different) > 1]
