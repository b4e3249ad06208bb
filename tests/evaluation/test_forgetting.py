"""Check forgetting: the change of the loss on general text."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

GENERAL = "general_text: shipped"


@pytest.fixture
def recipe(write_recipe: Callable[..., Path]) -> Path:
    path = write_recipe("lora, qlora, ia3")
    path.write_text(path.read_text().replace("evaluate:\n", f"evaluate:\n  {GENERAL}\n"))
    return path


def test_the_change_from_the_base_model_is_a_column(
    recipe: Path, adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    done = adapterzoo("run", recipe, "--out", tmp_path / "out", "--set", "train.learning_rate=0.1")
    assert done.exit_code == 0, done.stderr
    rows = {row["label"]: row for row in json.loads(adapterzoo("compare", tmp_path / "out", "--json").stdout)["rows"]}
    assert "forgetting" not in rows["base"]["metrics"]
    for label in ("lora", "qlora", "ia3"):
        lines = [json.loads(line) for line in (tmp_path / "out" / label / "seed-0" / "general.jsonl").open()]
        assert len(lines) == 64
        change = sum(line["loss"] - line["base_loss"] for line in lines) / sum(line["tokens"] for line in lines)
        assert rows[label]["metrics"]["forgetting"] == pytest.approx(change)
        low, high = rows[label]["intervals"]["forgetting"]
        assert low < change < high
    base = [
        json.loads((tmp_path / "out" / label / "seed-0" / "general.jsonl").open().readline())
        for label in ("lora", "qlora")
    ]
    assert base[0]["base_loss"] != base[1]["base_loss"], "each is compared with the base model that it was trained on"
    assert "forgot" in adapterzoo("compare", tmp_path / "out", "--format", "markdown").stdout


def test_an_untrained_adapter_forgets_nothing(recipe: Path, adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    adapterzoo("run", recipe, "-m", "lora", "--out", tmp_path / "out", "--set", "train.learning_rate=1e-30")
    result = json.loads((tmp_path / "out" / "lora" / "seed-0" / "result.json").read_text())
    assert result["metrics"]["forgetting"] == pytest.approx(0, abs=1e-6)


def test_measuring_forgetting_changes_no_other_metric(
    recipe: Path, adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    adapterzoo("run", recipe, "-m", "lora", "--out", tmp_path / "with")
    adapterzoo("run", recipe, "-m", "lora", "--out", tmp_path / "without", "--set", "evaluate.general_text=null")
    with_text, without = (
        json.loads((tmp_path / name / "lora" / "seed-0" / "result.json").read_text())["metrics"]
        for name in ("with", "without")
    )
    with_text.pop("forgetting")
    assert with_text == without


def test_a_recipe_may_name_its_own_general_text(
    recipe: Path, adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "mine.txt").write_text("One paragraph\nof two lines.\n \nAnother.\n\n\n\nAnd more.\n", encoding="utf-8")
    recipe.write_text(recipe.read_text().replace(GENERAL, "general_text: mine.txt"))
    assert adapterzoo("run", recipe, "-m", "lora", "--out", tmp_path / "out").exit_code == 0
    assert len((tmp_path / "out" / "lora" / "seed-0" / "general.jsonl").read_text().splitlines()) == 3
    again = adapterzoo("run", recipe, "-m", "lora", "--out", tmp_path / "out")
    assert "already done" in again.stderr
    (tmp_path / "mine.txt").write_text("Something else.", encoding="utf-8")
    refused = adapterzoo("run", recipe, "-m", "lora", "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "evaluate.general_text" in refused.stderr


@pytest.mark.parametrize(
    ("content", "message"), [(None, "there is no file"), (b"", "holds no text"), (b"\xff\xfe\x00", "it is not UTF-8")]
)
def test_a_general_text_that_cannot_be_read_is_refused(
    recipe: Path, adapterzoo: Callable[..., Result], tmp_path: Path, content: bytes | None, message: str,
    no_weights: None,
) -> None:  # fmt: skip
    if content is not None:
        (tmp_path / "mine.txt").write_bytes(content)
    recipe.write_text(recipe.read_text().replace(GENERAL, "general_text: mine.txt"))
    refused = adapterzoo("check", recipe)
    assert refused.exit_code == 2
    assert "mine.txt" in refused.stderr
    assert message in refused.stderr
