"""Push a comparison as a dataset, and read it with the library that people read datasets with."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
from click.testing import Result
from hub_server import Hub
from huggingface_hub import DatasetCard
from tiny import VERBS, past

Adapterzoo = Callable[..., Result]


def test_the_rows_are_read_as_a_dataset(
    hub: Hub, run_folder: Path, adapterzoo: Adapterzoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = adapterzoo("push", run_folder, "--table", "--licence", "cc-by-4.0", "ada/table")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{hub.endpoint}/datasets/ada/table\n"
    files = hub.repositories["ada/table"].revisions["main"]
    assert {*files} == {".gitattributes", "README.md", "rows.jsonl", "comparison.json", "comparison.html"}
    for name, text in files.items():
        answers = {past(verb) for verb in VERBS} - {"copied"}  # the page's buttons say that
        assert not [answer for answer in answers if f'"{answer}"'.encode() in text], name  # no answer of a data row
    for name, text in files.items():
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_bytes(text)
    rows = datasets.load_dataset(str(tmp_path / "folder"), "rows", split="train", cache_dir=str(tmp_path / "cache"))
    compared = json.loads(adapterzoo("compare", run_folder, "--json").stdout)["rows"]
    assert list(rows["label"]) == [row["label"] for row in compared]
    assert list(rows["exact_match"]) == pytest.approx([row["metrics"]["exact_match"] for row in compared])
    card = DatasetCard(files["README.md"].decode())
    assert card.data.license == "cc-by-4.0"
    assert "adapterzoo" in card.data.tags
    assert "\n| lora |" in card.text
    assert "The test rows and the answers to them are not published." in card.text
    own, published = adapterzoo("compare", run_folder, "--format", "html").stdout, files["comparison.html"].decode()
    differences = [re.findall(r'<script[^>]*id="differences">.*?</script>', text) for text in (own, published)]
    assert '"exact_match"' in differences[0][0]
    assert differences[0] == differences[1]


def test_predictions_are_published_on_request(run_folder: Path, adapterzoo: Adapterzoo, tmp_path: Path) -> None:
    to = tmp_path / "table"
    done = adapterzoo("push", run_folder, "--table", "--with-predictions", "a/b", "--dry-run", "--to", to)
    assert done.exit_code == 0, done.output
    answers = datasets.load_dataset(str(to), "predictions", split="train", cache_dir=str(tmp_path / "cache"))
    stored = [json.loads(line) for line in (run_folder / "qlora/seed-0/predictions.jsonl").open()]
    mine = answers.filter(lambda row: row["label"] == "qlora")
    assert list(mine["prediction"]) == [line["prediction"] for line in stored]
    assert list(mine["prompt"]) == [line["prompt"] for line in stored]
    assert "each test row, and the answer of each row of the table to it" in (to / "README.md").read_text()
