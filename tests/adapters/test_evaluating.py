"""Measure trained adapters on other data, with the numbers that the run itself would have printed."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from refusals import refused
from safetensors.torch import load_file, save_file
from task_runs import WORDS
from task_runs import write_recipe as write_task_recipe
from tiny import METHODS, RECIPE, past

from adapterzoo.results.adapter_folder import adapter_files
from adapterzoo.results.reading import read_result
from adapterzoo.results.store import Store

NEW_VERBS = ("bark", "bolt", "camp", "dine", "doze", "fish", "glue", "hire", "iron", "joke", "knit", "lick", "mend")


def lines(cell: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cell / "predictions.jsonl").read_text(encoding="utf-8").splitlines()]


def result(cell: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((cell / "result.json").read_text(encoding="utf-8"))
    return content


def write_rows(path: Path, rows: list[tuple[str, str]], columns: tuple[str, str] = ("verb", "past")) -> Path:
    path.write_text("".join(f"{first},{second}\n" for first, second in (columns, *rows)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """Return the output folder of a run with two methods and two seeds."""
    from click.testing import CliRunner

    from adapterzoo.cli import main

    folder = tmp_path_factory.mktemp("finished")
    (folder / "recipe.yaml").write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods="lora, ia3"))
    arguments = ["run", str(folder / "recipe.yaml"), "--seed", "0", "--seed", "1", "--out", str(folder / "out")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return folder / "out"


@pytest.fixture
def out(finished: Path, tmp_path: Path) -> Path:
    """Return a copy of the output folder, which a test may change."""
    return Path(shutil.copytree(finished, tmp_path / "out"))


def test_the_rows_of_the_test_split_get_the_numbers_of_the_run(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    """All seven methods, on int8 and nf4 as well, in processes of their own."""
    out, recipe = tmp_path / "out", write_recipe(", ".join(METHODS), steps="12")
    sets = ("--set", "train.learning_rate=1e-2", "--set", "threads=1")
    assert adapterzoo("run", recipe, *sets, "--jobs", 2, "--out", out).exit_code == 0
    asked = [(line["prompt"], line["reference"]) for line in lines(out / "lora" / "seed-0")]
    data = write_rows(tmp_path / "again.csv", asked)
    done = adapterzoo("evaluate", out, "--data", data)
    assert done.exit_code == 0, done.output
    assert "rows are padded" not in done.stderr
    measured = tmp_path / "out-on-again"
    for label in (*METHODS, "base", "base-2-shot"):
        cell, again = out / label / "seed-0", measured / label / "seed-0"
        if label == "adalora":  # PEFT saves it without the ranks that are pruned, so other sums are rounded
            assert result(again)["metrics"] == pytest.approx(result(cell)["metrics"], rel=1e-6)
            assert [line["prediction"] for line in lines(again)] == [line["prediction"] for line in lines(cell)]
        else:
            assert lines(again) == lines(cell), label
            assert result(again)["metrics"] == result(cell)["metrics"], label
        for name in ("trainable_params", "total_params", "adapter_bytes", "options", "learning_rate"):
            assert result(again)[name] == result(cell)[name], (label, name)
        assert result(again)["train_seconds"] is None
        assert not (again / "adapter").exists()
    assert result(measured / "lora" / "seed-0")["trained_in"] == str(out)
    # The table has intervals and ties, and says in which folder the adapters are.
    rows = {row["label"]: row for row in json.loads(adapterzoo("compare", measured, "--json").stdout)["rows"]}
    assert set(rows) == {*METHODS, "base", "base-2-shot"}
    assert all(row["intervals"] for row in rows.values())
    refused(adapterzoo("generate", measured, "-m", "lora", "--prompt", "x"), f"trained in {out}", "Give that folder.")


def test_other_rows_are_a_block_of_their_own(out: Path, adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    data = write_rows(tmp_path / "new verbs.csv", [(verb, past(verb)) for verb in NEW_VERBS], ("question", "answer"))
    # The names of the columns are those of the run, unless they are given.
    refused(adapterzoo("evaluate", out, "--data", data), "there is no column 'verb'", "data.columns")
    sets = ("--set", "data.columns={question: question, answer: answer}")
    done = adapterzoo("evaluate", out, "--data", data, "-m", "lora", *sets, "--out", tmp_path / "new")
    assert done.exit_code == 0, done.output
    assert len(lines(tmp_path / "new" / "lora" / "seed-1")) == len(NEW_VERBS)
    compared = json.loads(adapterzoo("compare", out, tmp_path / "new", "--json").stdout)
    assert [block["differs"][:1] for block in compared["blocks"]] == [[], ["the test rows differ"]]
    # Nothing is measured twice, and what was left out before is measured now.
    before = result(tmp_path / "new" / "lora" / "seed-0")["seconds"]
    assert adapterzoo("evaluate", out, "--data", data, *sets, "--out", tmp_path / "new").exit_code == 0
    assert result(tmp_path / "new" / "lora" / "seed-0")["seconds"] == before
    assert (tmp_path / "new" / "ia3" / "seed-1" / "result.json").is_file()


def test_an_adapter_that_was_trained_again_is_measured_again(
    out: Path, adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    data = write_rows(tmp_path / "new.csv", [(verb, past(verb)) for verb in NEW_VERBS])
    assert adapterzoo("evaluate", out, "--data", data).exit_code == 0
    measured = tmp_path / "out-on-new" / "lora" / "seed-0"
    before = result(measured)["metrics"]["test_loss"]
    # Another training of the same recipe, on another machine for example, gives other weights.
    adapter = out / "lora" / "seed-0" / "adapter"
    weights = adapter / "adapter_model.safetensors"
    save_file({name: weight * 3 for name, weight in load_file(weights).items()}, weights)
    cell = read_result(adapter.parent / "result.json")
    Store(out).write(replace(cell, adapter_files=adapter_files(adapter)), lines(adapter.parent))
    done = adapterzoo("evaluate", out, "--data", data)
    assert done.exit_code == 0, done.output
    said = " ".join(done.stderr.split())
    assert "lora, seed 0: the adapter was trained again since it was measured" in said
    assert "ia3, seed 0: the adapter" not in said
    assert result(measured)["metrics"]["test_loss"] != before


def test_rows_that_were_trained_on_are_refused(out: Path, adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    tested = {line["prompt"] for line in lines(out / "lora" / "seed-0")}
    rows = [(verb, past(verb)) for verb in ("walk", "bake", "stop", "carry", "panic", "play", "rest", "ask", "jump")]
    data = write_rows(tmp_path / "mixed.csv", [*rows, *((verb, past(verb)) for verb in NEW_VERBS)])
    done = adapterzoo("evaluate", out, "--data", data)
    refused(done, "is a training row of the adapters", "of 22 rows were trained on.", "duplicates=drop leaves them out")
    drop = ("--set", "data.split.duplicates=drop", "--out", tmp_path / "dropped")
    assert adapterzoo("evaluate", out, "--data", data, *drop).exit_code == 0
    asked = {line["prompt"] for line in lines(tmp_path / "dropped" / "lora" / "seed-0")}
    assert set(NEW_VERBS) <= asked
    assert len(asked) < 22
    assert tested & {verb for verb, _ in rows} <= asked
    keep = ("--set", "data.split.duplicates=keep", "--out", tmp_path / "kept")
    done = adapterzoo("evaluate", out, "--data", data, *keep)
    assert done.exit_code == 0, done.output
    assert "of 22 rows were trained on, and are kept" in " ".join(done.stderr.split())
    data = write_rows(tmp_path / "other.csv", [(verb, "another answer") for verb, _ in rows])
    done = adapterzoo("evaluate", out, "--data", data)
    assert done.exit_code == 0, done.output
    known = len({verb for verb, _ in rows} - asked)
    assert f"{known} of 9 test rows have a prompt that is in train with another answer" in " ".join(done.stderr.split())


@pytest.mark.parametrize("shots", [0, 2])
def test_the_rows_of_the_run_are_needed_only_for_examples_in_prompts(
    shots: int, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    source = write_rows(tmp_path / "run.csv", [(f"go{number}", f"went{number}") for number in range(30)])
    out, data = tmp_path / "out", write_rows(tmp_path / "new.csv", [(verb, past(verb)) for verb in NEW_VERBS])
    sets = ("--set", f"data.source={source}", "--set", f"evaluate.shots={shots}")
    assert adapterzoo("run", write_recipe("lora"), *sets, "--out", out).exit_code == 0
    source.unlink()
    done = adapterzoo("evaluate", out, "--data", data)
    if shots:
        refused(done, "the rows that the adapters were trained on cannot be read", "give --set evaluate.shots=0")
    else:
        assert done.exit_code == 0, done.output
        assert "so it is not known whether test rows are among them" in " ".join(done.stderr.split())


def test_mistakes(out: Path, adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    data = write_rows(tmp_path / "new.csv", [(verb, past(verb)) for verb in NEW_VERBS])
    refused(adapterzoo("evaluate", out, "--data", "nothing.csv"), "--data nothing.csv: there is no file 'nothing.csv'")
    refused(adapterzoo("evaluate", out, "--data", data, "-m", "lroa"), "no such adapter. Did you mean 'lora'?")
    refused(
        adapterzoo("evaluate", out, "--data", data, "--seed", 7), "nothing was trained with this seed", "from: 0, 1."
    )
    refused(adapterzoo("evaluate", out, "--data", data, "--set", "train.steps=3"), "the adapters are trained already")
    refused(adapterzoo("evaluate", out, "--data", data, "--set", "evaluate.metrics=[rouhe]"), "unknown metric 'rouhe'")
    refused(adapterzoo("evaluate", tmp_path / "none", "--data", data), "there is no such folder")
    refused(adapterzoo("evaluate", out, "--data", data, "--out", out), "holds the results of another recipe")
    weights = out / "lora" / "seed-0" / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    refused(adapterzoo("evaluate", out, "--data", data), "adapter_model.safetensors: is not what the run wrote")
    assert adapterzoo("evaluate", out, "--data", data, "-m", "ia3").exit_code == 0
    weights.parent.rename(tmp_path / "moved")
    refused(adapterzoo("evaluate", out, "--data", data), "adapter: does not exist any more")


def labelled(number: int) -> dict[str, Any]:
    return {"text": f"{('good', 'bad')[number % 2]} {WORDS[number // 2 % 10]} {number}", "label": "ab"[number % 2]}


def preferred(number: int) -> dict[str, Any]:
    return {"prompt": f"Name {WORDS[number % 10]} {number}.", "chosen": f"a {WORDS[number % 10]}", "rejected": "no"}


@pytest.mark.parametrize(
    ("task", "row", "methods"),
    [("classification", labelled, "lora, bitfit"), ("preference", preferred, "lora")],
)
def test_other_tasks(
    task: str,
    row: Callable[[int], dict[str, Any]],
    methods: str,
    tiny_model: Path,
    adapterzoo: Callable[..., Result],
    tmp_path: Path,
) -> None:
    """A new head comes back whether PEFT saves it or not, and the reference model of a preference is asked again."""
    rows = [row(number) for number in range(60)]
    recipe = write_task_recipe(tmp_path, tiny_model, rows[:48], task, methods, 6, 96)
    data = tmp_path / "test.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows[48:]), encoding="utf-8")
    sets = (f"data.split={{train: 0.8, validation: 0.2, test: [{data}]}}", "model.dtype=bfloat16")
    out = tmp_path / "out"
    assert adapterzoo("run", recipe, *(part for text in sets for part in ("--set", text)), "--out", out).exit_code == 0
    done = adapterzoo("evaluate", out, "--data", data)
    assert done.exit_code == 0, done.output
    cells = sorted(path.parent for path in out.glob("*/seed-0/result.json"))
    assert len(cells) == len(methods.split(",")) + 1, "the methods, and the base model or its head alone"
    for cell in cells:
        again = tmp_path / "out-on-test" / cell.parent.name / "seed-0"
        assert result(again)["metrics"] == result(cell)["metrics"], cell
        assert lines(again) == lines(cell), cell
