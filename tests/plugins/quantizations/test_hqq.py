"""Train, ask and merge on HQQ's 2, 3, 4 and 8 bits, whose layers are no torch layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from refusals import refused

from adapterzoo.conformance import Case
from adapterzoo.conformance.models import tiny_base
from adapterzoo.conformance.quantization import look_at
from adapterzoo.methods.registry import registry

pytest.importorskip("hqq")

BITS = {2: 0.31, 3: 0.47, 4: 0.56, 8: 1.06}
"""bits -> bytes that a weight takes"""


@pytest.mark.parametrize("bits", BITS)
def test_it_is_sound_by_itself_and_fewer_bits_lose_more(bits: int) -> None:
    for look in look_at(f"hqq{bits}"):
        assert not look.problems
        assert look.bytes_per_parameter == pytest.approx(BITS[bits], abs=0.02)


def test_fewer_bits_lose_more() -> None:
    changes = [look_at(f"hqq{bits}")[0].change for bits in BITS]
    assert changes == sorted(changes, reverse=True)


def test_the_number_of_parameters_is_that_of_the_plain_model() -> None:
    assert {tiny_base("llama", f"hqq{bits}").parameters for bits in (2, 4, 8)} == {
        tiny_base("llama", "none").parameters
    }


@pytest.mark.parametrize("method", ["lora", "lora-scratch"])
def test_a_method_is_sound_on_it(method: str) -> None:
    Case(registry()[method], "llama", "hqq4").check()


def test_a_run_is_asked_and_merged_and_what_cannot_train_is_refused_with_the_reason(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    on_hqq = ("--set", "model.quantization=hqq4")
    out = tmp_path / "out"
    done = adapterzoo("run", write_recipe("lora, bitfit"), *on_hqq, "--set", "train.learning_rate=1e-2", "--out", out)
    assert done.exit_code == 0, done.output
    assert adapterzoo("generate", out, "-m", "lora", "--prompt", "walk").exit_code == 0
    done = adapterzoo("merge", out, "-m", "lora", "--to", tmp_path / "merged")
    assert done.exit_code == 0, done.output
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert "quantization_config" not in config
    refused(adapterzoo("check", write_recipe("ia3"), *on_hqq), "ia3 cannot train on a base with quantization hqq4: ")
