"""An option that changes nothing, or that changes something else than its name says, is found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from wrong.sound import LowRank
from wrong.unseen_sizes import IgnoredAlpha, ListOfTargets, PatternOfTargets, SixteenRanks

from adapterzoo.conformance.effects import missing_effects
from adapterzoo.conformance.models import rows, tiny_base
from adapterzoo.conformance.trial import Trial
from adapterzoo.conformance.variants import few
from adapterzoo.methods.contract import Context, Method
from adapterzoo.methods.registry import registry
from adapterzoo.recipe.schema import TrainSection


def found(method: Method[Any], folder: Path) -> list[str]:
    context = Context(quantization="none", total_steps=5, gradient_accumulation=1, seed=0)
    trial = Trial(method, method.options(), context, "llama", rows(), folder)
    settings = TrainSection(warmup=0, eval_steps=0)
    return list(missing_effects(trial, tiny_base("llama", "none"), few(settings), lambda options: []))


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (IgnoredAlpha, "alpha 24.0 instead of 16.0 changes nothing in the trained adapter"),
        (SixteenRanks, "with r 32, training changes only 50% of the numbers that it should train"),
        (ListOfTargets, "with q_proj and v_proj as target_modules, it trains the same as with one of them"),
        (
            PatternOfTargets,
            r"with the pattern '.*\.v_proj' as target_modules, it trains something else than with [v_proj]",
        ),
    ],
)
def test_an_option_without_its_effect_is_found(kind: type[Method[Any]], says: str, tmp_path: Path) -> None:
    assert found(kind(), tmp_path) == [says]


@pytest.mark.parametrize("method", [LowRank(), registry()["lokr"]], ids=lambda method: method.name)
def test_options_that_matter_only_beside_others_are_no_fault(method: Method[Any], tmp_path: Path) -> None:
    assert found(method, tmp_path) == []
