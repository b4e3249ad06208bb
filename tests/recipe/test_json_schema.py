"""The schema for editors accepts what is a recipe, and refuses what load_recipe refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from jsonschema import Draft7Validator

from adapterzoo.methods.registry import registry
from adapterzoo.recipe.document import read
from adapterzoo.recipe.json_schema import MODELINE, recipe_schema
from adapterzoo.recipe.reading import load_recipe

WRONG = {
    "an unknown key": "stepz: 3\n",
    "an unknown key of a section": "budget: {trainable_params: 2M, size: 3}\n",
    "a wrong type": "jobs: many\n",
    "a wrong seed": "seeds: [-1]\n",
    "an unknown metric": "evaluate: {metrics: [rouhe]}\n",
    "nothing to tune": "tune: {rr: {low: 1, high: 2}}\n",
    "a wrong task": "task: superwised\n",
}


@pytest.fixture(scope="module")
def validator() -> Draft7Validator:
    schema = recipe_schema()
    Draft7Validator.check_schema(schema)
    return Draft7Validator(schema)


def problems(validator: Draft7Validator, path: Path) -> list[str]:
    return [error.message for error in validator.iter_errors(read(path).data)]


@pytest.mark.parametrize("path", sorted(Path("recipes").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_is_accepted_also_with_all_its_defaults(path: Path, validator: Draft7Validator) -> None:
    assert problems(validator, path) == []
    resolved = load_recipe(path).resolved()
    assert [error.message for error in validator.iter_errors(resolved)] == []


@pytest.mark.parametrize("extra", WRONG.values(), ids=WRONG)
def test_mistakes_are_found(extra: str, write_recipe: Callable[..., Path], validator: Draft7Validator) -> None:
    recipe = write_recipe("lora")
    assert problems(validator, recipe) == []
    text = recipe.read_text()
    key = extra.partition(":")[0]
    if f"\n{key}:" in text:  # a section that the recipe has
        text = text.replace(f"\n{key}:\n", f"\n{key}:\n  metrics: [rouhe]\n")
    else:
        text += extra
    recipe.write_text(text)
    assert problems(validator, recipe)


def test_the_options_of_every_method(write_recipe: Callable[..., Path], validator: Draft7Validator) -> None:
    zoo = registry()
    for name in zoo:
        if zoo[name].unavailable:
            continue
        defaults = zoo[name].options().model_dump(mode="json", exclude_none=True)
        entry = {"name": name, "label": "row", "learning_rate": 1e-3, **defaults}
        assert problems(validator, write_recipe(json.dumps(entry))) == [], name
        assert problems(validator, write_recipe(json.dumps({**entry, "no_such_option": 1}))), name
    assert problems(validator, write_recipe("lroa"))
    assert problems(validator, write_recipe("{name: lora, r: eight}"))
    assert problems(validator, write_recipe("{name: lora, r: -1}"))


def test_init_writes_the_schema_and_the_line_that_names_it(
    adapterzoo: Callable[..., Result], tiny_data: Path, tmp_path: Path
) -> None:
    recipe = tmp_path / "mine.yaml"
    assert adapterzoo("init", tiny_data, "--out", recipe).exit_code == 0
    assert recipe.read_text().splitlines()[0] == MODELINE
    written: Any = json.loads((tmp_path / MODELINE.partition("=")[2]).read_text())
    assert written == json.loads(adapterzoo("schema").stdout) == recipe_schema()
    assert [error.message for error in Draft7Validator(written).iter_errors(read(recipe).data)] == []
    # A file of the user with this name is left alone.
    (tmp_path / "recipe.schema.json").write_text("{}")
    assert adapterzoo("init", tiny_data, "--out", tmp_path / "other.yaml").exit_code == 0
    assert (tmp_path / "recipe.schema.json").read_text() == "{}"
