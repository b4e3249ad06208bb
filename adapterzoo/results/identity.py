"""Describe the part of a recipe that all rows of an output folder must share: everything but its methods and seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

DEFAULT_TASK = "supervised"
"""task of a recipe that names none"""
# Keys of a recipe that may change between two runs with the same output folder: their rows can still be compared.
CHANGEABLE = ("methods", "seeds", "name", "jobs", "threads")
# The same for keys of its section train. Each cell keeps its own learning rate; the others change no result.
CHANGEABLE_IN_TRAIN = ("learning_rate", "save_limit", "time_limit")
# The same for keys of its section model: where weights are kept changes no result.
CHANGEABLE_IN_MODEL = ("device_map", "max_memory", "offload_folder")


def recipe_identity(resolved: Mapping[str, Any], data_hash: str, weights: str | None) -> dict[str, Any]:
    """Return what all rows of a folder must share: the recipe without methods and seeds, with hashes of its files.

    Args:
        resolved: the recipe with every default.
        data_hash: hash of the rows of all splits.
        weights: hash of the base model's weights; None if it is not known.
    """
    data = {name: value for name, value in resolved["data"].items() if name not in ("source", "split")}
    evaluate = dict(resolved.get("evaluate", {}))
    for section, key in ((data, "chat_template"), (evaluate, "general_text")):
        if Path(section.get(key, "")).is_file():
            section[key] = hashlib.sha256(Path(section[key]).read_bytes()).hexdigest()
    identity = {name: value for name, value in resolved.items() if name not in CHANGEABLE}
    identity["evaluate"] = evaluate
    # Earlier versions had this task alone, and did not name it.
    if identity.get("task") == DEFAULT_TASK:
        del identity["task"]
    # Earlier versions knew no other values, and did not name them.
    identity["train"] = {
        name: value
        for name, value in identity.get("train", {}).items()
        if (name, value) not in (("devices", 1), ("sharding", "none"))
    }
    if identity.pop("tune", None):
        # The first seed is part of the identity, because tuning uses it.
        identity["tune"] = {**resolved["tune"], "seed": resolved["seeds"][0]}
    identity["model"] = {**identity.get("model", {}), "weights": weights}
    for key in CHANGEABLE_IN_MODEL:
        identity["model"].pop(key, None)
    # Earlier versions did not have this key; a folder of theirs stays the same run.
    if not identity["model"].get("tf32"):
        identity["model"].pop("tf32", None)
    identity["data"] = {**data, "rows": data_hash}
    return without_changeable(identity)


def without_changeable(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return an identity without the keys of its section train that may change; old versions kept some of them."""
    return {
        section: {name: value for name, value in content.items() if name not in CHANGEABLE_IN_TRAIN}
        if section == "train"
        else content
        for section, content in identity.items()
    }


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return the hash by which two identities are compared."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Return one line for each key in which two identities differ."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            line for key in keys for line in differences(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
        ]
    if path == "data.rows" and before != after:
        return ["the data rows differ"]
    return [] if before == after else [f"{path}: {before!r} there, {after!r} here"]
