"""Output folders from strangers: nothing is read outside of them, nothing hangs, and every text is shown inert."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result as Done
from refusals import refused
from written import write

from adapterzoo.results.intact import changed_files
from adapterzoo.results.reading import read_result
from adapterzoo.results.suitable import check_recipe

FORMATS = ("table", "markdown", "csv", "json", "html")
HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07\x9b31m\u202e\u2066\ufeff\u200b"
    '<script>alert(1)</script></style><img src=x onerror=alert(2)>"\'><a href="javascript:alert(3)">'
    '[x](javascript:alert(4))[/] [red]|`*{{ 7*7 }}{% raw %}$x$=HYPERLINK("//x")\r\n\t@x'
)
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b\u202a-\u202e\u2066-\u2069\ufeff]")


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Return an output folder with two rows and a note."""
    folder = tmp_path / "out"
    for label, share in (("lora", 7), ("ia3", 4)):
        write(folder, label, [index < share for index in range(10)])
        (folder / label / "seed-0/adapter").mkdir()
    (folder / ".adapterzoo.json").write_text(json.dumps({"cells": [["lora", 0], ["oft", 1]], "times": {"training": 1}}))
    return folder


@pytest.mark.parametrize(
    "name",
    [
        "lora",
        "lora/seed-0",
        "lora/seed-0/result.json",
        "lora/seed-0/predictions.jsonl",
        "lora/seed-0/adapter",
        "lora/seed-0/adapter/adapter_model.safetensors",
        "lora/seed-0/.result.json.new",
        ".adapterzoo.json",
        "recipe.yaml",
        "new",
    ],
)
def test_a_link_out_of_the_folder_is_refused(
    name: str, out: Path, adapterzoo: Callable[..., Done], write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    path, mine = out / name, tmp_path / "mine"
    if path.exists():
        shutil.move(path, mine)
    path.symlink_to(mine)  # for a name that is not there, it leads to nowhere, and writing would make a file there
    expected = f"{path}: is a link that leads out of {out}."
    refused(adapterzoo("compare", out), expected)
    refused(adapterzoo("generate", out, "-m", "lora", "--prompt", "go"), expected)
    refused(adapterzoo("merge", out, "-m", "lora", "--to", tmp_path / "merged"), expected)
    refused(adapterzoo("run", write_recipe("lora"), "--out", out), expected)


def test_links_inside_of_the_folder_and_to_it_are_followed(
    out: Path, adapterzoo: Callable[..., Done], tmp_path: Path
) -> None:
    (out / "oft").symlink_to("lora")
    (out / "lora/tuning.lock").symlink_to("/nowhere/tuning")
    (tmp_path / "link").symlink_to(out)
    done = adapterzoo("compare", tmp_path / "link")
    assert done.exit_code == 0, done.output
    assert "oft" in done.stdout


@pytest.mark.parametrize("kind", ["pipe", "huge"])
@pytest.mark.parametrize("name", ["lora/seed-0/result.json", "lora/seed-0/predictions.jsonl", ".adapterzoo.json"])
def test_pipes_and_huge_files_are_not_read(kind: str, name: str, out: Path, adapterzoo: Callable[..., Done]) -> None:
    path = out / name
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)  # reading it would wait for ever
    else:
        with path.open("wb") as file:
            file.truncate(2**43)  # 8 TB of nothing
    done = adapterzoo("compare", out)
    assert "Traceback" not in done.output
    assert "ia3" in done.stdout
    if path.name == "result.json":
        why = "it is not an ordinary file" if kind == "pipe" else "it has 8796093022208 bytes"
        assert f"is damaged: {why}" in " ".join(done.output.split())
    elif path.name == "predictions.jsonl":
        assert "predictions.jsonl does not show its exact_match" in " ".join(done.stdout.split())


def test_a_line_without_an_end_is_not_held_in_memory(out: Path, adapterzoo: Callable[..., Done]) -> None:
    with (out / "lora/seed-0/predictions.jsonl").open("wb") as file:
        file.truncate(2**31)  # one line of 2 GB
    done = adapterzoo("compare", out)
    assert "predictions.jsonl does not show its exact_match" in " ".join(done.stdout.split())


def change(path: Path, **values: Any) -> None:
    raw = {**json.loads(path.read_text()), **values}
    raw.pop("digest", None)  # results of old versions have none
    path.write_text(json.dumps(raw))


def test_deep_json_is_refused_or_shown(out: Path, adapterzoo: Callable[..., Done]) -> None:
    path = out / "lora/seed-0/result.json"
    text = path.read_text()
    for depth in (100, 900, 100_000):
        deep = "[" * depth + "]" * depth
        changed = re.sub(
            r'"findings": \{\}', f'"findings": {{"ranks": {deep}}}', re.sub(r',\s*"digest": "\w*"', "", text)
        )
        assert deep in changed
        path.write_text(changed)
        (out / ".adapterzoo.json").write_text(f'{{"cells": {deep}, "times": {deep}}}')
        for style in FORMATS:
            done = adapterzoo("compare", out, "--format", style)
            assert done.exit_code == 0, done.output
            assert "ia3" in done.stdout


@pytest.mark.parametrize("number", ["1" * 400, "-" + "9" * 400])
@pytest.mark.parametrize("field", ["trainable_params", "peak_memory_bytes", "budget"])
def test_a_number_without_sense_is_refused(number: str, field: str, out: Path, adapterzoo: Callable[..., Done]) -> None:
    change(out / "lora/seed-0/result.json", **{field: int(number)})
    done = adapterzoo("compare", out)
    assert "result.json: is damaged: it is not a result in JSON." in " ".join(done.output.split())
    assert "ia3" in done.stdout


def test_a_trial_without_a_time_is_refused(out: Path, adapterzoo: Callable[..., Done]) -> None:
    trial = {"settings": {"r": 1}, "metric": "m", "score": 0.5, "loss": 1.0, "seconds": float("nan"), "error": None}
    tuning = {"metric": "m", "trials": [trial], "chosen": {"r": 1}, "space": {}}
    change(out / "lora/seed-0/result.json", tuning=tuning)
    done = adapterzoo("compare", out, "--format", "html")
    assert "wrong values of tuning.trials.0.seconds" in " ".join(done.output.split())


def test_names_of_files_that_lead_outside_count_as_changed(out: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    names = ("../../../../mine", "..\\..\\mine", str(tmp_path / "pipe"), "C:\\mine", "")
    change(out / "lora/seed-0/result.json", adapter_files=dict.fromkeys(names, "0" * 32))
    result = read_result(out / "lora/seed-0/result.json")
    assert changed_files(out / "lora/seed-0", result) == [f"adapter/{name}" for name in names]


def hostile(value: Any) -> Any:
    """Return a value in which every text, and every key of a free mapping, is hostile."""
    if isinstance(value, str):
        return HOSTILE
    if isinstance(value, list):
        return [hostile(item) for item in value]
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items()} | {HOSTILE: HOSTILE}
    return value


def test_every_text_of_a_stranger_is_shown_inert(out: Path, adapterzoo: Callable[..., Done], tmp_path: Path) -> None:
    texts = {"text": "x"}
    trials = [{"settings": {"r": 1}, "metric": "m", "score": 0.5, "loss": 1.0, "seconds": 1.0, "error": "x"}]
    for label, method in (("lora", "lora"), ("ia3", None)):
        change(
            out / label / "seed-0/result.json",
            method=method and HOSTILE,
            plugin=HOSTILE,
            quantization=HOSTILE,
            error=HOSTILE,
            options=hostile(texts),
            metrics={"exact_match": 0.7, HOSTILE: 0.5},
            lower_is_better=[HOSTILE],
            broken_rules=hostile(texts),
            declared_departures=hostile(texts),
            findings={"adjusted": hostile(texts), **hostile(texts)},
            tuning={"metric": HOSTILE, "trials": hostile(trials), "chosen": hostile(texts), "space": hostile(texts)},
            adapter_files={HOSTILE: HOSTILE},
            fingerprints=hostile({"recipe": "r", "data": "d"}),
            recipe=hostile({"model": {"name": "m"}, "data": {}, "train": {}, "evaluate": {"metrics": ["x"]}}),
            environment=hostile({"packages": {"torch": "2"}, "device": "cpu"}),
            history=[{"step": 1.0, "loss": 2.0, HOSTILE: 1.0}],
            seconds={HOSTILE: 1.0},
        )
    failed = out / HOSTILE.replace("/", "") / "seed-0"
    shutil.copytree(out / "lora/seed-0", failed)
    change(failed / "result.json", status="failed", metrics={})
    lines = [json.loads(line) for line in (out / "lora/seed-0/predictions.jsonl").read_text().splitlines()]
    hostile_lines = [{**line, "prompt": HOSTILE, "prediction": HOSTILE, "reference": HOSTILE} for line in lines]
    for label in ("lora", "ia3"):
        (out / label / "seed-0/predictions.jsonl").write_text("\n".join(map(json.dumps, hostile_lines)))
    (out / ".adapterzoo.json").write_text(json.dumps({"cells": [[HOSTILE, 0]], "times": {HOSTILE: 1}}))
    views = [("--format", style) for style in FORMATS] + [("--examples", "2"), ("--curves",), ("--pareto", "params")]
    for arguments in views:
        done = adapterzoo("compare", out, *arguments)
        assert "Traceback" not in done.output
        assert done.exit_code in (0, 2), done.output  # a view may have nothing to show
        if arguments[-1] != "html":
            assert not CONTROL.search(done.output), (arguments, CONTROL.search(done.output))
        else:  # plotly's own script has control characters
            assert not [sign for sign in "\x1b\x07\u202e\u2066" if sign in done.output]
            for attack in ("<script>alert", "<img src=x", 'href="javascript', "</style><img"):
                assert attack not in done.stdout
        if arguments[-1] == "csv":
            assert not re.search(r'(^|,)"?[=@+-]HYPERLINK', done.stdout)
    refused(adapterzoo("generate", out, "-m", HOSTILE, "--prompt", "go"))
    assert not CONTROL.search(adapterzoo("compare", out / HOSTILE.replace("/", "")).output)


def test_the_store_refuses_to_write_through_a_link(out: Path, tmp_path: Path) -> None:
    from adapterzoo.errors import UserError

    shutil.rmtree(out / "lora")
    (tmp_path / "mine").mkdir()
    (out / "lora").symlink_to(tmp_path / "mine")
    with pytest.raises(UserError, match="is a link that leads out of"):
        check_recipe(out, {})
