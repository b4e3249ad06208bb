"""What must not differ between the rows of one table: the recipe without its methods and seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

# These may grow from one run of a recipe to the next, or change no result.
GROWING = ("methods", "seeds", "name", "jobs", "threads")


def recipe_identity(resolved: Mapping[str, Any], data_hash: str, weights: str | None) -> dict[str, Any]:
    """Return what all rows of a folder must share: the recipe but for its methods, with data and model by content.

    Args:
        resolved: the recipe with every default.
        data_hash: of the rows as they are split.
        weights: digest of the base model's weights, where it is known.
    """
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


def identity_hash(identity: Mapping[str, Any]) -> str:
    """Return the hash by which two identities are compared."""
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def differences(before: Any, after: Any, path: str = "") -> list[str]:
    """Return what differs between two identities, a line for each key."""
    if isinstance(before, dict) and isinstance(after, dict):
        keys = [*before, *(key for key in after if key not in before)]
        return [
            line for key in keys for line in differences(before.get(key), after.get(key), f"{path}.{key}".lstrip("."))
        ]
    if path == "data.rows" and before != after:
        return ["the data rows differ"]
    return [] if before == after else [f"{path}: {before!r} there, {after!r} here"]
