"""The JSON schema of recipes, with the options of every installed method and task, for editors."""

from __future__ import annotations

import json
from typing import Any

from pydantic import BaseModel

from adapterzoo.methods.registry import Registry, registry
from adapterzoo.metrics.measured import MEASURED_NAMES
from adapterzoo.metrics.registry import metrics
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.recipe.schema import Recipe
from adapterzoo.tasks.registry import tasks

FILE = "recipe.schema.json"
"""name of the file that adapterzoo init writes beside a recipe"""
MODELINE = f"# yaml-language-server: $schema={FILE}"
"""line of a recipe by which an editor finds its schema"""

TITLE = "adapterzoo recipe"
Schema = dict[str, Any]


def recipe_schema(zoo: Registry | None = None) -> Schema:
    """Return the JSON schema of a recipe.

    Args:
        zoo: the methods that a recipe may name; by default all that are installed.
    """
    zoo = registry() if zoo is None else zoo
    schema = Recipe.model_json_schema()
    definitions: Schema = schema["$defs"]
    properties: Schema = schema["properties"]
    for name, definition in definitions.items():
        _without_titles(definition)
        if name not in ("MethodEntry", "TaskEntry"):
            definition["additionalProperties"] = False
    _without_titles(schema)
    names = [name for name in zoo if not zoo[name].unavailable]
    known = sorted({*metrics(), *MEASURED_NAMES, *(name for task in tasks().values() for name in task.measured)})
    definitions["EvaluateSection"]["properties"]["metrics"]["items"] = {"enum": known}
    quantization: Schema = definitions["ModelSection"]["properties"]["quantization"]
    definitions["ModelSection"]["properties"]["quantization"] = {**quantization, "enum": [*quantizations()]}
    rate, label = (definitions["MethodEntry"]["properties"][key] for key in ("learning_rate", "label"))
    own = {
        "label": {**label, "description": "name of the row and its folder [the method's name]"},
        "learning_rate": {**rate, "description": "learning rate of this entry [train.learning_rate]"},
    }
    definitions["MethodEntry"] = {
        "anyOf": [
            {"enum": names},
            *(_entry(name, zoo[name].summary, zoo[name].options, own, definitions) for name in names),
        ]
    }
    definitions["TaskEntry"] = {
        "anyOf": [
            {"enum": [*tasks()]},
            *(_entry(name, task.summary, task.options, {}, definitions) for name, task in tasks().items()),
        ]
    }
    options = {option for name in names for option in zoo[name].options.model_fields}
    properties["tune"]["propertyNames"] = {"enum": ["learning_rate", *sorted(options)]}
    return {
        "$schema": "http://json-schema.org/draft-07/schema#",  # the version that editors know
        "title": TITLE,
        **schema,
        "additionalProperties": False,
    }


def schema_text() -> str:
    """Return the JSON schema of a recipe with the installed methods, as the content of a file."""
    return json.dumps(recipe_schema(), indent=1, ensure_ascii=False) + "\n"


def _entry(name: str, summary: str, options: type[BaseModel], own: Schema, definitions: Schema) -> Schema:
    """Return the schema of an entry that names a method or a task, and sets some of its options."""
    schema = options.model_json_schema(ref_template=f"#/$defs/{name}.{{model}}")
    definitions |= {f"{name}.{key}": definition for key, definition in schema.pop("$defs", {}).items()}
    _without_titles(schema)
    return {
        "type": "object",
        "description": summary,
        "properties": {"name": {"const": name, "description": summary}, **own, **schema.get("properties", {})},
        "required": ["name"],
        "additionalProperties": False,
    }


def _without_titles(schema: Schema) -> None:
    """Remove the titles that pydantic makes of names, because editors would show them in place of the names."""
    schema.pop("title", None)
    for field in schema.get("properties", {}).values():
        field.pop("title", None)
