"""Check that every kind of damage to every file of an output folder is named, and that ``run`` makes the cell again.

ADAPTERZOO_DAMAGE=full really runs the recipe after each kind of damage, which takes minutes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import Result
from damage import DAMAGES, become_file, remove_anything
from tiny import RECIPE

from adapterzoo import UserError, compare
from adapterzoo.adapters.finding import find_adapter
from adapterzoo.digests import records_digest
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.prepare.prepare import prepare
from adapterzoo.recipe.reading import load_recipe
from adapterzoo.results.claims import Claims
from adapterzoo.results.identity import recipe_identity
from adapterzoo.results.note import NOTE
from adapterzoo.results.reading import DamagedResultError, read_result
from adapterzoo.results.store import Store
from adapterzoo.results.suitable import check_recipe
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.serial import SerialSchedule
from adapterzoo.running.worker import Worker

CELL = "lora/seed-0"
FILES = ("result.json", "predictions.jsonl", "general.jsonl", "adapter/adapter_model.safetensors",
         "adapter/adapter_config.json", "adapter/tokenizer.json")  # fmt: skip
FOLDERS = ("lora", CELL, f"{CELL}/adapter")
LABELS = ["base", "lora", "ia3"]


class Finished(NamedTuple):
    """A finished run."""

    recipe: Path
    out: Path
    prepared: Any
    identity: dict[str, Any]


@pytest.fixture(scope="session")
def finished(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    from adapterzoo import run

    folder = tmp_path_factory.mktemp("finished")
    (folder / "general.txt").write_text("Once upon a time.\n\nIt was long ago.\n")
    recipe = folder / "recipe.yaml"
    text = RECIPE.format(model=tiny_model, data=tiny_data, methods="lora, ia3")
    text = text.replace("shots: 2", f"shots: 0\n  general_text: {folder}/general.txt").replace("steps: 6", "steps: 2")
    recipe.write_text(text)
    run(recipe, folder / "out")
    prepared = prepare(load_recipe(recipe))
    identity = recipe_identity(prepared.recipe.resolved(), prepared.encoded.fingerprint, prepared.weights)
    return Finished(recipe, folder / "out", prepared, identity)


class Messages(Reporter):
    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def planned(finished: Finished, out: Path) -> tuple[list[str], list[str]]:
    """Return the labels of the cells that a run would do, and what it says before."""
    reporter, store = Messages(), Store(out)
    message = check_recipe(store.folder, finished.identity)
    schedule = SerialSchedule(Worker(finished.prepared, store, finished.identity), reporter, Stopwatch(), Claims())
    return [cell.label for cell in schedule.todo], [*reporter.said, *([message] if message else [])]


def content(out: Path) -> dict[str, bytes]:
    """Return the files of an output folder that are the same after each run."""
    names = ("adapter", "predictions.jsonl", "general.jsonl", "recipe.yaml")
    files = {path.relative_to(out): path for path in out.rglob("*") if path.is_file()}
    return {str(name): path.read_bytes() for name, path in files.items() if {*name.parts} & {*names}}


def run_again(finished: Finished, out: Path, adapterzoo: Callable[..., Result]) -> str:
    """Run the recipe into a damaged folder; check that it is then as it was, and return what the run said."""
    done = adapterzoo("run", finished.recipe, "--out", out)
    assert done.exit_code == 0, done.output
    assert content(out) == content(finished.out)
    assert planned(finished, out) == ([], [])
    return done.stderr


@pytest.fixture
def damaged(finished: Finished, tmp_path: Path) -> Path:
    """Return a copy of the finished run's output folder, for a test to damage."""
    return Path(shutil.copytree(finished.out, tmp_path / "damaged"))


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_file_of_a_cell_is_named_and_the_cell_is_made_again(
    kind: str, name: str, finished: Finished, damaged: Path, adapterzoo: Callable[..., Result]
) -> None:
    DAMAGES[kind](damaged / CELL / name)
    todo, said = planned(finished, damaged)
    assert todo == ["lora"], "the other cells are kept"
    compared = compare(damaged)
    assert [row.label for row in compared.rows if row.label != "lora"], "and compared"
    text = str(compared)
    if kind == "deleted" and name == "result.json":
        assert "not finished: no result yet for lora" in text
        assert not said
    else:
        (message,) = said
        assert message.startswith(f"lora, seed 0: {name} ")
        assert message.endswith("so the cell is trained again")
        assert f"seed-0/{name}" in " ".join(text.split())
    if os.environ.get("ADAPTERZOO_DAMAGE"):
        run_again(finished, damaged, adapterzoo)


@pytest.mark.parametrize("kind", DAMAGES)
def test_without_the_note_of_the_folder_its_results_show_the_recipe(
    kind: str, finished: Finished, damaged: Path, adapterzoo: Callable[..., Result]
) -> None:
    threads = Store(damaged).threads()
    DAMAGES[kind](damaged / NOTE)
    todo, (message,) = planned(finished, damaged)
    assert not todo
    assert message.startswith(f"{damaged / NOTE} is {'missing' if kind == 'deleted' else 'damaged'}, and is made again")
    assert Store(damaged).threads() == threads
    assert len(compare(damaged).rows) == 3
    other = {**finished.identity, "train": {**finished.identity["train"], "steps": 3}}
    with pytest.raises(UserError, match=r"holds the results of another recipe \(train\.steps: 2 there, 3 here\)"):
        check_recipe(damaged, other)
    if os.environ.get("ADAPTERZOO_DAMAGE"):
        run_again(finished, damaged, adapterzoo)


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("damage", [become_file, remove_anything])
def test_a_folder_that_is_gone_or_a_file_does_not_stop_the_run(
    folder: str, damage: Any, finished: Finished, damaged: Path, adapterzoo: Callable[..., Result]
) -> None:
    damage(damaged / folder)
    # A user may have removed a whole adapter to save space.
    expected = [] if damage is remove_anything and folder.endswith("adapter") else ["lora"]
    assert planned(finished, damaged)[0] == expected
    assert {row.label for row in compare(damaged).rows} >= {"base", "ia3"}
    if os.environ.get("ADAPTERZOO_DAMAGE") and expected:
        run_again(finished, damaged, adapterzoo)


def test_one_run_makes_good_all_damage_at_once(
    finished: Finished, damaged: Path, adapterzoo: Callable[..., Result]
) -> None:
    DAMAGES["emptied"](damaged / NOTE)
    DAMAGES["cut"](damaged / "recipe.yaml")
    DAMAGES["a folder"](damaged / "base/seed-0/result.json")
    DAMAGES["a byte flipped"](damaged / "ia3/seed-0/predictions.jsonl")
    become_file(damaged / CELL)
    shown = adapterzoo("compare", damaged, "--format", "json")
    assert shown.exit_code == 0, "one result that is left can be shown"
    assert [row["label"] for row in json.loads(shown.stdout)["rows"]] == ["ia3"]
    said = " ".join(run_again(finished, damaged, adapterzoo).split())
    assert f"{NOTE} is damaged, and is made again: the results are of the same recipe" in said
    assert "base, seed 0: result.json is damaged: it is not an ordinary file, so the cell is measured again" in said
    assert "ia3, seed 0: predictions.jsonl is not what the run wrote, so the cell is trained again" in said


def test_an_adapter_can_be_used_while_another_result_is_damaged(damaged: Path) -> None:
    DAMAGES["cut"](damaged / CELL / "result.json")
    DAMAGES["emptied"](damaged / NOTE)
    assert find_adapter(damaged, "ia3").path == damaged / "ia3/seed-0/adapter"
    with pytest.raises(UserError, match=r"lora/seed-0/result\.json: is damaged: .* Run the recipe again"):
        find_adapter(damaged, "lora")


def test_a_result_that_another_schema_wrote_is_not_called_damaged(finished: Finished, damaged: Path) -> None:
    """An older adapterzoo must not train again what a newer one has written."""
    path = damaged / CELL / "result.json"
    newer = {**json.loads(path.read_text()), "schema": 99}
    del newer["digest"]
    path.write_text(json.dumps({**newer, "digest": records_digest([newer])}))
    with pytest.raises(UserError, match="was written by a newer adapterzoo"):
        planned(finished, damaged)


def test_every_byte_of_a_result_counts(finished: Finished, damaged: Path) -> None:
    """A changed digit of a time or a setting cannot be noticed otherwise."""
    path = damaged / CELL / "result.json"
    whole, expected = path.read_bytes(), read_result(path)
    step = 1 if os.environ.get("ADAPTERZOO_DAMAGE") else len(whole) // 150
    for place in range(0, len(whole), step):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with suppress(DamagedResultError):
            found = read_result(path)
            assert found == expected or not found.ok, "only the key of the digest itself does not matter"
