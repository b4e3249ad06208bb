"""What a row of the table costs to serve is found by trying, and kept until the adapter is trained again."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

METHODS = "{name: lora, r: 4}, {name: dora, r: 4}, {name: loha, r: 2}, oft, ln-tuning, prompt-tuning, qlora"


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> tuple[Path, str]:
    """Return the output folder of a run with adapters of every form, and what ``compare --serving`` printed."""
    from click.testing import CliRunner
    from tiny import RECIPE

    from adapterzoo.cli import main

    folder = tmp_path_factory.mktemp("served")
    (folder / "recipe.yaml").write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods=METHODS))
    sets = ("--set", "train.learning_rate=1e-2", "--set", "evaluate.base=false", "--set", "evaluate.shots=0")
    done = CliRunner().invoke(main, ["run", str(folder / "recipe.yaml"), *sets, "--out", str(folder / "out")])
    assert done.exit_code == 0, done.output
    done = CliRunner().invoke(main, ["compare", str(folder / "out"), "--serving"], env={"COLUMNS": "160"})
    assert done.exit_code == 0, done.output
    return folder / "out", done.stdout


def servings(out: Path, adapterzoo: Callable[..., Result]) -> dict[str, dict[str, Any]]:
    table = json.loads(adapterzoo("compare", out, "--format", "json").stdout)
    return {row["label"]: row["serving"] for row in table["rows"]}


def test_each_form_is_found_by_trying(tried: tuple[Path, str], adapterzoo: Callable[..., Result]) -> None:
    found = servings(tried[0], adapterzoo)
    forms = {label: (one["served_as"], one["rank"], one["shares_base"]) for label, one in found.items()}
    assert forms == {
        "lora": ("LoRA", 4, True),
        "qlora": ("LoRA", 8, True),
        "dora": ("LoRA, converted", forms["dora"][1], True),
        "loha": ("LoRA, converted", 4, True),
        "oft": ("LoRA, converted", forms["oft"][1], True),
        "ln-tuning": ("merged model", None, False),
        "prompt-tuning": ("PEFT only", None, True),
    }
    assert "LoRA changes linear layers only" in found["ln-tuning"]["why_not"]["LoRA"]
    assert "has nothing to merge" in found["prompt-tuning"]["why_not"]["merged model"]
    assert found["prompt-tuning"]["merged"] is None
    for one in found.values():
        for cost in filter(None, (one["adapter"], one["merged"])):
            assert cost["seconds"] > 0
            assert cost["memory_bytes"] > 1e7
        assert one["bytes"] > 0
    assert found["qlora"]["merged"] is not None, "by undoing the quantization"


def test_the_table_is_printed_below_the_comparison(tried: tuple[Path, str], adapterzoo: Callable[..., Result]) -> None:
    out, printed = tried
    lines = {line.split("  ")[0]: line for line in printed[printed.index("served as") :].splitlines()}
    assert "LoRA r4 " in lines["lora"]
    assert "LoRA, converted r4 " in lines["loha"]
    assert "merged model" in lines["ln-tuning"]
    assert "prompt-tuning, no merged model: prompt-tuning has nothing to merge into a model." in printed
    written = adapterzoo("compare", out, "--serving", "--format", "markdown").stdout
    assert "| lora | LoRA r4 | nothing |" in written


def test_what_is_known_is_not_tried_again_until_the_adapter_changes(
    tried: tuple[Path, str], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    out = shutil.copytree(tried[0], tmp_path / "out")
    for label in ("dora", "loha", "oft", "ln-tuning", "qlora", "prompt-tuning"):
        shutil.rmtree(out / label)
    assert "trying" not in adapterzoo("compare", out, "--serving").stderr
    path = out / "lora" / "seed-0" / "serving.json"
    path.write_text(path.read_text().replace('"rank": 4', '"rank": 8'))  # somebody has changed it
    assert servings(out, adapterzoo)["lora"] is None
    assert "lora: trying how it can be served" in adapterzoo("compare", out, "--serving").stderr
    assert servings(out, adapterzoo)["lora"]["rank"] == 4


@pytest.mark.parametrize("template", ["Give the past of {question}, please.", "{question} -> {answer}"])
def test_answers_are_timed_after_the_prompts_of_the_run(
    template: str,
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """The recorded prompts have the recipe's template in them, and it was filled in once more."""
    from cells import Bench

    from adapterzoo.adapters import serving
    from adapterzoo.adapters.asking import Ready
    from adapterzoo.adapters.finding import find_adapter
    from adapterzoo.adapters.loading import saved_encoder
    from adapterzoo.evaluation import generation

    recipe, sets = write_recipe("lora", steps="1", shots="0"), (f"data.template={json.dumps(template)}", "jobs=0")
    given = [part for value in sets for part in ("--set", value)]
    assert adapterzoo("run", recipe, *given, "--out", tmp_path / "out").exit_code == 0
    asked: list[list[int]] = []
    monkeypatch.setattr(generation, "generate", lambda model, encoded, prompts, *_: asked.extend(prompts))
    adapter = find_adapter(tmp_path / "out", "lora")
    serving._seconds(Ready.of(None, saved_encoder(adapter), adapter))
    test = Bench(recipe, *sets).prepared.encoded.test
    assert asked == [test[0].prompt, *(example.prompt for example in test[: serving.PROMPTS])]
