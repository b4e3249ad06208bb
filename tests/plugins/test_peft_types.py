"""The methods derived from PEFT's registry: complete, true to the installed PEFT, and judged by the kit alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
from adapterzoo_plugins._peft_catalog import CATALOG, conclude, option_type, schema
from adapterzoo_plugins.peft_types import derive
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import ValidationError

from adapterzoo.conformance import Report
from adapterzoo.methods.contract import Context
from adapterzoo.methods.registry import registry

MADE = json.loads(Path(CATALOG).read_text(encoding="utf-8"))


def test_the_catalog_is_of_the_installed_peft() -> None:
    assert MADE["peft"] == peft.__version__, "python -m adapterzoo_plugins._peft_catalog"
    told = {name: {key: facts[key] for key in ("type", "config", "options")} for name, facts in MADE["types"].items()}
    assert told == json.loads(json.dumps(schema()))


def test_every_type_of_peft_is_in_the_zoo() -> None:
    zoo = registry()
    assert len(MADE["types"]) == len(PEFT_TYPE_TO_CONFIG_MAPPING)
    stood_for = {name for method in zoo for name in zoo[method].stands_for}
    assert set(MADE["types"]) <= {*zoo, *stood_for}


def test_what_cannot_be_trained_was_seen_to_fail() -> None:
    """No list kept by hand: a person's words may only say better why the kit refused."""
    for name in registry():
        method = registry()[name]
        if method.fallback:
            facts = MADE["types"][name]
            assert "quantizations" in facts, f"{name} was never put through the kit"
            assert bool(method.unavailable) == (not facts["quantizations"])
            assert facts["quantizations"] or facts["refused"]


@pytest.mark.parametrize(
    ("annotation", "written"),
    [
        (int, "int"),
        (float | None, "float|null"),
        (str | list[str] | None, "list[str]|str|null"),
        (dict[str, int], None),
        (object, None),
    ],
)
def test_types_are_written_or_left_out(annotation: Any, written: str | None) -> None:
    assert option_type(annotation) == written


def test_options_are_typed_and_documented() -> None:
    method = registry()["hira"]
    with pytest.raises(ValidationError, match="valid integer"):
        method.options(r="many")
    with pytest.raises(ValidationError, match="Extra inputs"):
        method.options(rank=4)
    assert method.options(r=4).model_dump()["target_modules"] == "all-linear"
    for name in registry():
        for option, field in registry()[name].options.model_fields.items():
            assert field.description, f"{name}.{option}"


def test_a_configuration_is_what_the_options_say() -> None:
    context = Context(quantization="none", total_steps=10, gradient_accumulation=1, seed=0)
    method = derive("road")
    config = method.peft_config(None, method.options(group_size=32), context)
    assert (type(config).__name__, config.group_size, config.variant) == ("RoadConfig", 32, "road_2")


def report(base: str, **failures: str) -> Report:
    return Report("mine", "llama", base, verdicts={name.replace("_", " "): text for name, text in failures.items()})


def test_abilities_follow_from_what_was_seen() -> None:
    plain, int8 = report("none", starts_at_base="by 3"), report("int8", starts_at_base="by 3", merges="by 2")
    assert conclude([plain, int8]) == {
        "quantizations": ["none", "int8"],
        "mergeable_into": ["none"],
        "starts_at_base": False,
    }
    # What holds over the plain base has to hold over the others.
    found = conclude([report("none"), report("int8", starts_at_base="by 3")])
    assert (found["quantizations"], found["refused"]) == (["none"], ["int8: starts at base: by 3"])
    found = conclude([report("none", rows_alone="by 1"), report("int8")])
    assert found["quantizations"] == []
    declined = Report("mine", "llama", "none", declined="options: too wide")
    assert conclude([declined]) == {"quantizations": [], "mergeable_into": [], "refused": ["options: too wide"]}
