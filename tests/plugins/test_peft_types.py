"""The methods derived from PEFT's registry are complete, match the installed PEFT, and passed the conformance kit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import peft
import pytest
from adapterzoo_plugins._peft_catalog import CATALOG, conclude, option_type, schema
from adapterzoo_plugins.peft_types import derive
from cells import Bench, assert_same
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from pydantic import ValidationError

from adapterzoo.conformance import Report
from adapterzoo.methods.contract import Context
from adapterzoo.methods.registry import registry

WRITTEN = json.loads(Path(CATALOG).read_text(encoding="utf-8"))


def test_the_catalog_is_of_the_installed_peft() -> None:
    assert WRITTEN["peft"] == peft.__version__, "python -m adapterzoo_plugins._peft_catalog"
    keys = ("type", "config", "options")
    described = {name: {key: facts[key] for key in keys} for name, facts in WRITTEN["types"].items()}
    assert described == json.loads(json.dumps(schema()))


def test_every_type_of_peft_is_in_the_zoo() -> None:
    zoo = registry()
    assert len(WRITTEN["types"]) == len(PEFT_TYPE_TO_CONFIG_MAPPING)
    replaced = {name for method in zoo for name in zoo[method].stands_for}
    assert set(WRITTEN["types"]) <= {*zoo, *replaced}


def test_methods_that_cannot_be_trained_failed_in_the_kit() -> None:
    """A method is unavailable only because the kit refused it; a note may only explain the reason better."""
    for name in registry():
        method = registry()[name]
        if method.fallback:
            facts = WRITTEN["types"][name]
            assert "quantizations" in facts, f"the kit never tested {name}"
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
def test_types_are_written_as_text_or_left_out(annotation: Any, written: str | None) -> None:
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


def test_a_configuration_has_the_values_of_the_options() -> None:
    context = Context(quantization="none", total_steps=10, gradient_accumulation=1, seed=0)
    method = derive("road")
    config = method.peft_config(None, method.options(group_size=32), context)
    assert (type(config).__name__, config.group_size, config.variant) == ("RoadConfig", 32, "road_2")


def report(base: str, **failures: str) -> Report:
    return Report("mine", "llama", base, verdicts={name.replace("_", " "): text for name, text in failures.items()})


def test_abilities_follow_from_the_reports() -> None:
    plain, int8 = report("none", starts_at_base="by 3"), report("int8", starts_at_base="by 3", merges="by 2")
    assert conclude([plain, int8]) == {
        "quantizations": ["none", "int8"],
        "mergeable_into": ["none"],
        "starts_at_base": False,
    }
    # A property that holds without quantization has to hold on the quantized bases too.
    facts = conclude([report("none"), report("int8", starts_at_base="by 3")])
    assert (facts["quantizations"], facts["refused"]) == (["none"], ["int8: starts at base: by 3"])
    facts = conclude([report("none", rows_alone="by 1"), report("int8")])
    assert facts["quantizations"] == []
    declined = Report("mine", "llama", "none", declined="options: too wide")
    assert conclude([declined]) == {"quantizations": [], "mergeable_into": [], "refused": ["options: too wide"]}


def test_poly_trains_with_gradient_checkpointing(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """PEFT tells its layers the task only during the forward pass, and checkpointing calls them again later."""
    trained = []
    for on in ("false", "true"):
        bench = Bench(write_recipe("poly", steps="2"), f"train.gradient_checkpointing={on}")
        trained.append(bench.adapter("poly", bench.load("none"), tmp_path / on))
    assert_same(*trained)
