"""Check that recipes are read, that values can be overridden, and that all problems are reported."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from adapterzoo.errors import UserError
from adapterzoo.recipe.reading import load_recipe


def problems(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(UserError) as caught:
        load_recipe(path, overrides)
    return [str(problem) for problem in caught.value.problems]


def test_all_problems_are_reported_at_once_each_with_its_line(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe("lora, lroa, {name: ia3, r: 4}", "seedz: [1]\n", steps="-1", dtype="bfloat61")
    lines = path.read_text().splitlines()
    found = problems(path)

    def line(start: str) -> int:
        return 1 + next(i for i, text in enumerate(lines) if text.strip().startswith(start))

    assert len(found) == 5
    assert any(
        f":{line('dtype')}: 'model.dtype' is 'bfloat61'" in text and "Did you mean 'bfloat16'?" in text
        for text in found
    )
    assert any(f":{line('steps')}: 'train.steps' is -1" in text for text in found)
    assert any(f":{line('seedz')}: unknown key 'seedz'. Did you mean 'seeds'?" in text for text in found)
    assert any(f":{line('methods')}: unknown method 'lroa'. Did you mean 'lora'?" in text for text in found)
    assert any(f":{line('methods')}: unknown key 'r'." in text for text in found)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"learning_rate": "fast"}, "'train.learning_rate' must be a positive number, or auto, not 'fast'."),
        ({"learning_rate": "0"}, "must be a positive number"),
        ({"learning_rate": ".nan"}, "must be a positive number"),
        ({"batch_size": "true"}, "'train.batch_size' is True"),
        ({"batch_size": "'8'"}, "'train.batch_size' is '8'"),
        ({"warmup": "1.5"}, "a share of all steps below 1"),
        ({"epochs": "2"}, "has steps and epochs"),
        ({"quantization": "int4"}, "Did you mean 'int8'?"),
        ({"split": "{train: 0.9, validation: 0.1, test: 0.1}"}, "add up to more than 1"),
        ({"columns": "{queston: verb}"}, "Did you mean 'question'?"),
        ({"source": "nowhere.csv"}, "there is no file 'nowhere.csv'"),
        ({"methods": "[]"}, "'methods' is empty"),
        ({"methods": "lora"}, "'methods' is 'lora'"),
        ({"methods": "[{label: x}]"}, "'methods.0.name' is missing"),
        ({"methods": "[lora, lora]"}, "the label 'lora' is used twice"),
        ({"methods": "[{name: lora, label: base}]"}, "the label 'base' is taken"),
        ({"methods": "[{name: lora, label: ../x}]"}, "it becomes a folder"),
        ({"methods": "[{name: lora, label: 12}]"}, "(it becomes a folder), not 12. Put it in quotes."),
        ({"name": "2024"}, "(it becomes a folder), not 2024. Put it in quotes."),
        ({"methods": "[{name: lora, r: many}]"}, "'r' is 'many'"),
        ({"methods": "[{name: lora, r: 0}]"}, "'r' is 0"),
        ({"methods": "[{name: lora, learning_rate: no}]"}, "learning_rate' must be a positive number"),
        ({"methods": "[{name: adalora, init_r: 4}]"}, "target_r is above init_r"),
        ({"epochs": ".inf"}, "'train.epochs' is inf"),
        ({"seeds": "[4294967296]"}, "'seeds.0' is 4294967296"),
        ({"max_new_tokens": "0"}, "must be a positive whole number, or auto, not 0"),
        ({"methods": "[{name: lora, target_modules: 3}]"}, "'target_modules' is 3; it can be text or a list."),
        ({"methods": "[{name: lora, lora_alpha: .inf}]"}, "'lora_alpha' is inf"),
        ({"methods": "[{name: lora, label: recipe.yaml}]"}, "the label 'recipe.yaml' is taken"),
        ({"seeds": "[1, 1]"}, "'seeds' has the same seed twice"),
        ({"name": "../../etc"}, "it becomes a folder"),
    ],
)
def test_a_wrong_value_is_reported_with_a_hint(
    write_recipe: Callable[..., Path], changes: dict[str, str], expected: str
) -> None:
    (key, value), *_ = changes.items()
    text = write_recipe("lora").read_text().splitlines()
    if key == "seeds":
        text.append("seeds: []")
    sections = {"learning_rate": "train", "warmup": "train", "epochs": "train", "quantization": "model"}
    if key in sections:
        text.insert(text.index(f"{sections[key]}:") + 1, f"  {key}: {value}")
    else:
        at = next(i for i, line in enumerate(text) if line.strip().startswith(f"{key}:"))
        text[at] = text[at].partition(key)[0] + f"{key}: {value}"
    path = write_recipe("lora", name="wrong.yaml")
    path.write_text("\n".join(text))
    found = problems(path)
    assert len(found) == 1
    assert expected in found[0]
    line = 1 + next(i for i, entry in enumerate(text) if entry.strip().startswith(f"{key}:"))
    place = line if key != "epochs" and key != "split" else None
    assert place is None or f":{place}: " in found[0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name: [a\n", "this is not YAML"),
        ("name: a\nname: b\n", ":2: the key 'name' is given twice. Keep one of them."),
        ("- a\n- b\n", "does not contain a recipe"),
        ("", "does not contain a recipe"),
        ("name: x\n\tmodel: y\n", "this is not YAML"),
        ("name: 2024-13-45\n", "this is not YAML"),
        ('name: !!int "abc"\n', "this is not YAML"),
        ('name: "\\ud800"\n', "cannot be read"),
        ("name: " + "[" * 3000 + "\n", "nested too deeply"),
    ],
)
def test_a_file_that_is_not_a_recipe_is_refused(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    assert expected in problems(path)[0]


def test_missing_file_folder_and_binary(tmp_path: Path) -> None:
    assert "no such file" in problems(tmp_path / "none.yaml")[0]
    assert "is a folder" in problems(tmp_path)[0]
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    assert "cannot be read" in problems(tmp_path / "binary.yaml")[0]


def test_yaml_1_2_numbers_and_words(write_recipe: Callable[..., Path]) -> None:
    recipe = load_recipe(write_recipe("lora"), ["train.learning_rate=1e-4", "data.system=no"])
    assert recipe.train.learning_rate == 1e-4
    assert recipe.data.system == "no"


def test_learning_rate_auto_differs_by_method_and_a_number_is_for_all(write_recipe: Callable[..., Path]) -> None:
    methods = "lora, ia3, {name: lora, label: fast, learning_rate: 0.01}"
    own = load_recipe(write_recipe(methods)).methods
    assert own[0].learning_rate != own[1].learning_rate
    assert own[2].learning_rate == 0.01
    shared = load_recipe(write_recipe(methods), ["train.learning_rate=1e-3"]).methods
    assert [entry.learning_rate for entry in shared] == [1e-3, 1e-3, 0.01]


def test_the_resolved_recipe_loads_as_the_same_recipe(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    from adapterzoo.results.store import Store

    recipe = load_recipe(write_recipe("lora, {name: lora, label: wide, r: 64}, adalora"))
    Store(tmp_path / "out").begin(recipe.resolved(), {})
    again = load_recipe(tmp_path / "out" / "recipe.yaml")
    assert again.resolved() == recipe.resolved()
    assert again.methods[1].options["r"] == 64
    assert again.methods[0].options["r"] == 8


def test_set_overrides_a_key_and_is_named_in_errors(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe("lora")
    assert load_recipe(path, ["train.steps=3", "methods=[ia3]"]).methods[0].name == "ia3"
    assert problems(path, "train.steps=-3")[0].startswith("--set train.steps=-3: 'train.steps' is -3")
    assert "key=value" in problems(path, "train.steps")[0]
    assert "not inside a section" in problems(path, "name.x=1")[0]
    assert "unknown key 'train.stepz'" in problems(path, "train.stepz=3")[0]
    assert problems(path, "trian.steps=3")[0].startswith("--set trian.steps=3: unknown key 'trian'")
    assert problems(path, "methods=[lora, lroa]")[0].startswith("--set methods=[lora, lroa]: unknown method 'lroa'")
    assert problems(path, "train.steps=")[0] == "--set train.steps=: has no value."
    assert "For example: {name: lora, label: mine}" in problems(path, "methods=[{lora: {r: 64}}]")[-1]


def test_a_method_on_a_base_it_cannot_train_on(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.methods.registry import registry

    monkeypatch.setattr(type(registry()["ia3"]), "quantizations", ("none", "int8"))
    found = problems(write_recipe("lora, ia3"), "model.quantization=nf4")
    assert "ia3 cannot train on a base with quantization nf4. It trains on: none, int8" in found[0]


def test_steps_on_the_command_line_replace_epochs(write_recipe: Callable[..., Path]) -> None:
    recipe = load_recipe(write_recipe("lora"), ["train.epochs=2.0"])
    assert (recipe.train.steps, recipe.train.epochs) == (None, 2.0)
    assert "steps and epochs" in problems(write_recipe("lora"), "train.epochs=2.0", "train.steps=3")[0]


BOMB = "a: &a [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]\n" + "".join(
    f"{key}: &{key} [{', '.join([f'*{before}'] * 10)}]\n" for before, key in itertools.pairwise("abcdefghijkl")
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (BOMB, ":4: its aliases repeat more than 10,000 values. Write the values out."),
        (BOMB.replace("[0,", "[{name: lora},").replace("l: &l", "methods: &l"), ":4: its aliases repeat more than"),
        (f"{BOMB}m: *l\nm: *l\n", ":4: its aliases repeat more than 10,000 values"),
        ("a0: &a0 {x: 1, y: 2, z: 3}\n" + "".join(
            f"a{n + 1}: &a{n + 1} {{<<: [{', '.join([f'*a{n}'] * 9)}]}}\n" for n in range(9)
        ), ":5: its aliases repeat more than 10,000 values"),
        (f"a: &a {'x' * 100_000}\nb: [{', '.join(['*a'] * 200)}]\n", ":2: its aliases repeat more than 10,000 values"),
        ("methods: &m [*m]\n", ":1: holds an alias of itself"),
        ("a: &a {b: {c: *a}}\n", ":1: holds an alias of itself"),
    ],
)  # fmt: skip
def test_aliases_that_stand_for_too_many_values_are_refused_at_once(
    text: str, expected: str, tmp_path: Path, write_recipe: Callable[..., Path]
) -> None:
    path, begun = tmp_path / "bomb.yaml", time.process_time()
    path.write_text(text)
    assert expected in problems(path)[0]
    value = "{" + text.strip().replace("\n", ", ") + "}"
    (problem,) = problems(write_recipe("lora"), f"train.arguments={value}")
    assert expected.partition(": ")[2].partition(". ")[0] in problem
    assert time.process_time() - begun < 10


def test_a_recipe_that_takes_too_long_to_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from adapterzoo.recipe import document, yaml_text

    path = tmp_path / "long.yaml"
    path.write_text("methods: [" + "a," * 100_000 + "]")
    monkeypatch.setattr(yaml_text, "MAX_SECONDS", 0.2)
    assert problems(path)[0] == f"{path}: takes more than 0.2 seconds to read, and no recipe does."
    monkeypatch.setattr(document, "MAX_BYTES", 100_000)
    assert "long.yaml: is larger than" in problems(path)[0]


def test_a_pipe_is_no_recipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.yaml")
    assert "is not an ordinary file. Write the recipe to a file first." in problems(tmp_path / "pipe.yaml")[0]
    assert "is not an ordinary file" in problems(Path("/dev/zero"))[0]
    assert problems(Path("a\0b"))


def test_a_merged_key_in_a_section_of_its_own(write_recipe: Callable[..., Path]) -> None:
    path = write_recipe("lora, &small {name: lora, label: small, r: 2}, {<<: *small, label: also}")
    text = path.read_text().replace("train:\n", "train:\n  <<: &t {weight_decay: 0.1}\n")
    path.write_text(text.replace("evaluate:\n", "tune:\n  <<: {}\nevaluate:\n"))
    recipe = load_recipe(path)
    assert [entry.options.get("r") for entry in recipe.methods] == [8, 2, 2]
    assert recipe.train.weight_decay == 0.1
    path.write_text(text.replace("weight_decay: 0.1", "weight_decay: fast"))
    assert "'train.weight_decay' is 'fast'" in problems(path)[0]


def test_a_set_option_with_a_very_deep_key(write_recipe: Callable[..., Path]) -> None:
    assert "has a key of 2001 parts" in problems(write_recipe("lora"), f"{'train.' * 2000}steps=1")[0]
