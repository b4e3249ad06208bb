"""The JSON schema of what ``compare --format json`` prints."""

from __future__ import annotations

from typing import Any


def schema() -> dict[str, Any]:
    """Return the JSON schema, made from the fields of rows and blocks and their docstrings."""
    from adapterzoo.comparison.comparison import SCHEMA, Facts
    from adapterzoo.results.row import Row

    rows, blocks = _fields(Row), _fields(Facts)
    shared = {**rows.pop("$defs", {}), **blocks.pop("$defs", {})}
    properties = {
        "schema": {
            "const": SCHEMA,
            "description": "number that is raised when a field changes its meaning or is removed",
        },
        "rank_metric": {"type": ["string", "null"], "description": "metric of the rows' differences and ties"},
        "against": {
            "type": ["string", "null"],
            "description": "label of the row that all others are compared with; null: the best row",
        },
        "times": {
            "type": "object",
            "description": "folder -> activity -> its seconds in the folder's last run, all processes together",
            "additionalProperties": {"type": "object", "additionalProperties": {"type": "number"}},
        },
        "damaged": {
            "type": "object",
            "description": "folder -> a sentence for each result in it that is damaged and in no row",
            "additionalProperties": {"type": "array", "items": {"type": "string"}},
        },
        "unfinished": {
            "type": "object",
            "description": "folder -> label -> seeds of the folder's last run that have no result",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": {"type": "array", "items": {"type": "integer"}},
            },
        },
        "rows": {"type": "array", "items": rows},
        "blocks": {"type": "array", "items": blocks},
        "fingerprints": {"type": "object", "description": "fingerprints of the first block"},
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
    """Return the schema of a dataclass, in which every field is required."""
    from pydantic import TypeAdapter

    schema = TypeAdapter(kind).json_schema()
    for field in schema["properties"].values():
        field.pop("title", None)
        field.pop("default", None)
    return {**schema, "required": list(schema["properties"]), "additionalProperties": False}
