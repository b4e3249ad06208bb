"""Check that the kit tries methods on families of models, and that no method adapts layers that are not called."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result

from adapterzoo import linear_layers
from adapterzoo.conformance import family_cases
from adapterzoo.conformance.families import FAMILIES
from adapterzoo.conformance.models import tiny_skeleton


def test_a_method_is_sound_on_a_mixture_whose_router_is_a_linear_layer() -> None:
    (case,) = family_cases("lora", ["llama4_text"])
    assert str(case) == "lora-llama4_text-none"
    case.check()


@pytest.mark.parametrize(
    ("family", "left_out"), [("mamba2", "out_proj"), ("falcon_h1", "out_proj"), ("llama4_text", "router")]
)
def test_layers_whose_weights_are_used_past_the_layer_are_left_out(family: str, left_out: str) -> None:
    skeleton = tiny_skeleton(family).get_model()
    assert any(name.endswith(left_out) for name, _ in skeleton.named_modules())
    layers = linear_layers(skeleton)
    assert layers
    assert not any(name.endswith(left_out) for name in layers)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_has_a_tiny_model_with_linear_layers(family: str) -> None:
    assert len(linear_layers(tiny_skeleton(family).get_model())) >= 2


def test_an_unknown_family_is_refused(adapterzoo: Callable[..., Result]) -> None:
    refused = adapterzoo("plugin", "check", "lora", "--family", "qwen3_mo")
    assert refused.exit_code == 2
    assert "--family qwen3_mo: is not known. Did you mean 'qwen3_moe'?" in refused.stderr
