"""Merge adapters: several at once, measured on the test rows, from quantized base models, and without other changes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from refusals import refused
from safetensors.torch import load_file

MERGEABLE = ("lora", "ia3", "loha", "lokr", "oft", "dora", "vera", "adalora", "hra", "rslora")
LEARN = ("--set", "train.learning_rate=1e-2", "--set", "train.steps=12")
LINE = re.compile(r"^(\S+)\s+(match|loss|perpl\.)\s+(\S+)\s+(\S+)\s+([+-]\S+)\s+(\S.*)$")


def changes(output: str) -> dict[tuple[str, str], list[str]]:
    """Return the label and the metric of each line of the table -> its numbers."""
    found = [match.groups() for line in output.splitlines() if (match := LINE.match(line.strip()))]
    return {(label, metric): numbers for label, metric, *numbers in found}


def test_ten_methods_at_once(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    out, to = tmp_path / "out", tmp_path / "merged"
    assert adapterzoo("run", write_recipe(", ".join(MERGEABLE)), *LEARN, "--out", out).exit_code == 0
    wanted = [part for label in MERGEABLE for part in ("-m", label)]
    done = adapterzoo("merge", out, *wanted, "--to", to)
    assert done.exit_code == 0, done.output
    table = changes(done.stdout)
    assert {label for label, _ in table} == set(MERGEABLE)
    for label in MERGEABLE:
        before, after, difference, _ = table[label, "match"]
        assert before == after, label
        assert difference == "+0.000", label
        assert (to / label / "model.safetensors").is_file()
        loss_before, loss_after, _, interval = table[label, "loss"]
        assert loss_before == loss_after, label
        assert interval != "", label
    metrics = json.loads((out / "lora" / "seed-0" / "result.json").read_text())["metrics"]
    assert table["lora", "loss"][0] == f"{metrics['test_loss']:.3f}"


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["none", "nf4", "int8"])
def test_what_the_method_does_not_touch_stays_bit_for_bit(
    dtype: str,
    quantization: str,
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    tiny_model: Path,
    tmp_path: Path,
) -> None:
    out, to = tmp_path / "out", tmp_path / "merged"
    recipe = write_recipe("{name: lora, target_modules: [q_proj, v_proj]}")
    sets = ("--set", f"model.dtype={dtype}", "--set", f"model.quantization={quantization}")
    assert adapterzoo("run", recipe, *LEARN, *sets, "--out", out).exit_code == 0
    assert adapterzoo("merge", out, "-m", "lora", "--to", to, "--no-measure").exit_code == 0
    base, merged = load_file(tiny_model / "model.safetensors"), load_file(to / "model.safetensors")
    assert base.keys() == merged.keys()
    for name, weight in base.items():
        weight = weight.to(getattr(torch, dtype))
        if "q_proj" in name or "v_proj" in name:
            assert not torch.equal(weight, merged[name]), name
        elif quantization == "none" or "proj" not in name:
            assert torch.equal(weight, merged[name]), name
        else:  # it has the value that it had on the quantized base model
            assert torch.allclose(weight, merged[name], atol=0.2 * float(weight.abs().max())), name


def test_from_4_bits_the_merged_model_scores_like_the_adapter(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    out, to = tmp_path / "out", tmp_path / "merged"
    assert adapterzoo("run", write_recipe("qlora, lora"), *LEARN, "--out", out).exit_code == 0
    done = adapterzoo("merge", out, "-m", "qlora", "-m", "lora", "--to", to)
    assert done.exit_code == 0, done.output
    assert "qlora: trained on nf4, merged without quantization" in done.stderr
    before, after, _, _ = changes(done.stdout)["qlora", "loss"]
    assert float(after) == pytest.approx(float(before), abs=2e-3)
    assert "quantization_config" not in json.loads((to / "qlora" / "config.json").read_text())


def test_without_the_rows_of_the_run_nothing_is_measured_and_that_is_said(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tiny_data: Path, tmp_path: Path
) -> None:
    out, source = tmp_path / "out", tmp_path / "rows.csv"
    source.write_bytes(tiny_data.read_bytes())
    assert adapterzoo("run", write_recipe("lora, ia3"), "--set", f"data.source={source}", "--out", out).exit_code == 0
    source.write_text(source.read_text() + "zoom,zoomed\n")
    done = adapterzoo("merge", out, "-m", "lora", "-m", "ia3", "--to", tmp_path / "merged")
    assert done.exit_code == 0, done.output
    assert done.stdout == ""
    said = " ".join(done.stderr.split())
    assert said.count("not measured on the test rows: data: the rows have changed since the run.") == 1
    assert (tmp_path / "merged" / "ia3" / "config.json").is_file()
    # Before any model is loaded, all folders are checked.
    again = adapterzoo("merge", out, "-m", "lora", "-m", "ia3", "--to", tmp_path / "merged")
    refused(again, "merged/lora: already exists")
