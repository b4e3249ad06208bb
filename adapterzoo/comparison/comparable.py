"""Which results can stand in one table, and what keeps the others out of it. No torch in here."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from adapterzoo.recipe.train import ON_EVALUATION
from adapterzoo.results.result import Result
from adapterzoo.results.store import differences

# Keys of a recipe that change no number that is compared: what else is measured, and what is written on the way.
WITHOUT_EFFECT = {
    "evaluate": ("metrics", "base", "shots", "general_text"),
    "train": ("save_steps", "save_limit", "eval_steps", "loggers"),
}
# Where a row's size and settings come from: the row has them.
APART = ("budget", "tune")
# Packages that change no number either: what the data holds is compared itself.
READERS = ("datasets",)
# What changes what a row costs, and no score.
HARDWARE = ("processor", "cores", "threads", "jobs", "platform")


def comparability_key(result: Result) -> dict[str, Any]:
    """What has a say in a result's scores beside its method and seed, as plain data."""
    recipe = {
        section: {key: value for key, value in content.items() if key not in WITHOUT_EFFECT.get(section, ())}
        if isinstance(content, dict)
        else content
        for section, content in result.recipe.items()
        if section not in APART
    }
    if (train := result.recipe.get("train", {})).get("scheduler") in ON_EVALUATION:
        recipe["train"]["eval_steps"] = train.get("eval_steps")
    if not recipe:  # of the first schema, away from its folder
        recipe = {"hash": result.fingerprints.get("recipe")}
    # The rows are compared part by part, the weights by name.
    recipe.get("data", {}).pop("rows", None)
    weights = recipe.get("model", {}).pop("weights", None)
    packages = result.environment.get("packages") or {}
    parts = {name: result.fingerprints[name] for name in ("train", "validation", "test") if name in result.fingerprints}
    return {
        **recipe,
        "rows": parts or {"all": result.fingerprints.get("data")},
        "weights": result.fingerprints.get("weights", weights),
        "packages": {name: version for name, version in packages.items() if name not in READERS},
        "device": result.environment.get("device"),
    }


def blocks(results: Sequence[Result]) -> list[list[Result]]:
    """The results in groups that can be compared, in the order in which each group is first seen."""
    groups: dict[str, list[Result]] = {}
    for result in results:
        groups.setdefault(json.dumps(comparability_key(result), sort_keys=True, default=str), []).append(result)
    return list(groups.values())


def what_differs(first: Result, other: Result) -> list[str]:
    """Why two results cannot be ranked against each other, a line for each reason."""
    lines = []
    one, two = comparability_key(first), comparability_key(other)
    rows, others = one.pop("rows"), two.pop("rows")
    if rows != others:
        named = [name for name in rows if name in others and rows[name] != others[name]]
        lines += [f"the {name} rows are others" for name in named if name != "all"] or [
            "the rows of the data are others"
        ]
    if one.pop("weights") != two.pop("weights"):
        lines.append("the weights of the base are others")
    return lines + differences(one, two)


def hardware(result: Result) -> dict[str, Any]:
    """What has a say in what a result cost."""
    return {name: result.environment.get(name) for name in HARDWARE}


def hardware_differs(results: Sequence[Result]) -> list[str]:
    """Why the costs of these results cannot be compared."""
    found: list[Mapping[str, Any]] = [hardware(result) for result in results]
    return [
        f"{name}: {' and '.join(sorted({str(one[name]) for one in found}))}"
        for name in HARDWARE
        if len({str(one[name]) for one in found}) > 1
    ]
