"""The schema of what ``compare --format json`` prints."""

from __future__ import annotations

from typing import Any


def schema() -> dict[str, Any]:
    """A JSON schema, made of the fields and what they say of themselves."""
    from adapterzoo.comparison import SCHEMA, Facts
    from adapterzoo.results.row import Row

    rows, blocks = _fields(Row), _fields(Facts)
    shared = {**rows.pop("$defs", {}), **blocks.pop("$defs", {})}
    properties = {
        "schema": {"const": SCHEMA, "description": "raised when a field changes its meaning or goes"},
        "rank_metric": {"type": ["string", "null"], "description": "the metric that differences and ties are of"},
        "against": {"type": ["string", "null"], "description": "the row that others are compared with; null: the best"},
        "times": {
            "type": "object",
            "description": "folder -> what the seconds of all processes of its last run were spent on",
            "additionalProperties": {"type": "object", "additionalProperties": {"type": "number"}},
        },
        "unfinished": {
            "type": "object",
            "description": "folder -> label -> seeds that its last run was to do, and that have no result",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "integer"}},
            },
        },
        "rows": {"type": "array", "items": rows},
        "blocks": {"type": "array", "items": blocks},
        "fingerprints": {"type": "object", "description": "hashes of what the first block was made of"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "adapterzoo compare --format json",
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "$defs": shared,
    }


def _fields(kind: type) -> dict[str, Any]:
    """A dataclass, whose fields are all there."""
    from pydantic import TypeAdapter

    found = TypeAdapter(kind).json_schema()
    for described in found["properties"].values():
        described.pop("title", None)
        described.pop("default", None)
    return {**found, "required": list(found["properties"]), "additionalProperties": False}
