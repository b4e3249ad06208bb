"""Check that processes that divide the base model among them do what one process does, with half of its weights."""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from cell_ranks import RANKS, result
from cells import exit_code
from click.testing import CliRunner
from safetensors.torch import load_file
from task_runs import WORDS, write_recipe
from tiny import RECIPE

from adapterzoo.cli import main
from adapterzoo.machine.processes import wait_for_any
from adapterzoo.machine.rank_processes import forked_ranks

# One on codes in 4 bits, one that changes the base model when it is put on, one that trains the base model itself, and
# one that uses the model twice in a step.
METHODS = ("qlora", "pissa", "full", "prompt-tuning")
SETS = (
    *("--set", "evaluate.shots=0", "--set", "train.batch_size=5", "--set", "train.steps=2"),
    *("--set", "train.eval_steps=2", "--set", "train.save_steps=1"),
)
DIVIDED = (*SETS, *RANKS, "--set", "train.sharding=fsdp2")
TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def recipe(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("divided") / "recipe.yaml"
    path.write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods=", ".join(METHODS)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def alone(recipe: Path) -> Path:
    assert exit_code(["run", str(recipe), *SETS, "--out", str(recipe.parent / "alone")]) == 0
    return recipe.parent / "alone"


@pytest.fixture(scope="module")
def together(recipe: Path) -> Path:
    """Return the results of processes that divide the model, each of which has noted what it holds."""
    out = recipe.parent / "together"

    launched(recipe, out, noting=True)
    return out


def launched(recipe: Path, out: Path, *, noting: bool = False) -> None:
    """Do a run as processes that a launcher has started; each loads the model itself."""

    def run(send: Callable[[Any], None]) -> None:
        bytes_held = noting_bytes() if noting else {}
        done = CliRunner().invoke(main, ["run", str(recipe), *DIVIDED, "--out", str(out)])
        (recipe.parent / f"bytes-{os.environ['RANK']}").write_text(json.dumps(bytes_held))
        if os.environ["RANK"] == "0":
            send((done.exit_code, done.output))

    ran = forked_ranks(2, run, 1)
    messages: list[Any] = []
    while ran.alive:
        wait_for_any([ran])
        messages += ran.messages()
    messages += ran.messages()
    assert messages, ran.output()
    assert messages[0][0] == 0, messages[0][1]


def noting_bytes() -> dict[str, list[tuple[int, int, int]]]:
    """Note what this process holds of the frozen weights; return phase -> bytes, bytes at rest, two largest layers."""
    from adapterzoo.model.divided import Divided
    from adapterzoo.running import cell
    from adapterzoo.training.trainer import TaskTrainer

    noted: dict[str, list[tuple[int, int, int]]] = defaultdict(list)
    phases = ["measuring"]

    def note(divided: Divided, phase: str) -> None:
        pieces = [piece for unit in divided._units for piece in unit if not piece.tensor.requires_grad]
        held = sum(piece.storage.nbytes() for piece in pieces)
        largest = sorted(sum(2 * len(piece.part) for piece in unit) for unit in divided._units)[-2:]
        noted[phase].append((held + divided.part_bytes(), divided.part_bytes(), sum(largest)))

    def noting(owner: Any, name: str, phase: Callable[[], str]) -> None:
        function = getattr(owner, name)

        def called(divided: Divided, *arguments: Any) -> None:
            function(divided, *arguments)
            if divided._units:
                note(divided, phase())

        setattr(owner, name, called)

    def in_phase(owner: Any, name: str, phase: str) -> None:
        function = getattr(owner, name)

        def called(*arguments: Any, **named: Any) -> Any:
            phases.append(phase)
            try:
                return function(*arguments, **named)
            finally:
                phases.pop()

        setattr(owner, name, called)

    noting(Divided, "_registered", lambda: "loading")
    noting(Divided, "_put_together", lambda: phases[-1])
    in_phase(cell, "checked_wrap", "wrapping")
    in_phase(TaskTrainer, "train_watched", "training")
    return noted


@pytest.mark.parametrize("label", [*METHODS, "base"])
def test_a_divided_model_gives_the_results_of_a_whole_one(label: str, alone: Path, together: Path) -> None:
    assert_alike(alone, together, label)


def test_each_process_holds_its_part_and_two_layers(together: Path) -> None:
    for rank in (0, 1):
        noted = json.loads((together.parent / f"bytes-{rank}").read_text())
        assert noted.keys() == {"loading", "measuring", "wrapping", "training"}
        assert all(held == part for held, part, _ in noted["loading"]), "a weight is divided as soon as it is read"
        for held, part, largest in chain.from_iterable(noted.values()):
            assert held <= part + largest


def test_a_forked_process_divides_the_model_that_it_was_given(recipe: Path, alone: Path) -> None:
    out = recipe.parent / "forked"
    assert exit_code(["run", str(recipe), "-m", "qlora", *DIVIDED, "--out", str(out)]) == 0
    assert_alike(alone, out, "qlora")


def test_a_new_head_is_filled_with_its_parts_at_other_ranks(tiny_model: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{WORDS[n % 10]} {n}", "label": "abcdef"[n % 6]} for n in range(30)]
    recipe = write_recipe(tmp_path, tiny_model, rows, "classification", methods="lora, full")
    assert exit_code(["run", str(recipe), *SETS, "--out", str(tmp_path / "alone")]) == 0
    launched(recipe, tmp_path / "together")
    for label in ("lora", "full"):  # nothing reads the weights that full trains before the first step
        assert_alike(tmp_path / "alone", tmp_path / "together", label)


def assert_alike(alone: Path, together: Path, label: str) -> None:
    """Assert that a cell has the losses, the scores, the answers and the weights that one process gave it."""
    mine, theirs = result(alone, label), result(together, label)
    for step, other in zip(mine["history"], theirs["history"], strict=True):
        assert other == pytest.approx(step, abs=TOLERANCE)
    assert theirs["broken_rules"] == mine["broken_rules"]
    assert theirs["metrics"] == pytest.approx(mine["metrics"], rel=TOLERANCE)
    assert answers(together, label) == answers(alone, label)
    weights = saved(together, label)
    for name, tensor in saved(alone, label).items():
        assert (tensor - weights[name]).abs().max() < TOLERANCE, name


def saved(out: Path, label: str) -> dict[str, Any]:
    """Return what a cell has saved; full fine-tuning saves a whole model."""
    files = (out / label / "seed-0").glob("adapter/*.safetensors")
    return {name: tensor for file in files for name, tensor in load_file(file).items()}


def answers(out: Path, label: str) -> list[tuple[Any, ...]]:
    lines = (out / label / "seed-0" / "predictions.jsonl").read_text().splitlines()
    return [(row["reference"], row["prediction"]) for row in map(json.loads, lines)]
