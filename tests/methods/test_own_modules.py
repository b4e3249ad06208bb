"""Methods with modules of their own: where they are put, how they are saved, and what they add when they are merged."""

from __future__ import annotations

import copy
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from adapterzoo import AdapterzooError, Context, InsertMethod, LayerMethod, LinearOptions, Options, trained
from adapterzoo.conformance.models import tiny_base
from adapterzoo.methods.behind import Behind

CONTEXT = Context(quantization="none", total_steps=1, gradient_accumulation=1, seed=0)
IDS = torch.arange(3, 13)[None]


class Shifted(nn.Module):
    """``y = W·x + M·x + shift``, whose update is a weight and a bias."""

    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.base = linear
        self.shift = nn.Parameter(torch.full((linear.out_features,), 0.5))
        self.matrix = nn.Parameter(torch.full((linear.out_features, linear.in_features), 0.01))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base(x) + x @ self.matrix.T + self.shift

    def update(self) -> tuple[torch.Tensor, torch.Tensor]:
        return self.matrix, self.shift


class Shifts(LayerMethod[LinearOptions]):
    name, summary, paper = "shifts", "adds a matrix and a bias", "-"
    options = LinearOptions
    learning_rate, learning_rate_source = 1e-3, "-"

    def layer(self, linear: nn.Module, options: LinearOptions) -> nn.Module:
        return Shifted(linear)


def test_an_update_may_carry_a_bias() -> None:
    base = tiny_base("gpt_neox", "none")
    with base.borrow() as model:
        untouched = model(input_ids=IDS).logits.detach()
        names = set(dict(model.named_parameters()))
        wrapped = Shifts().wrap(model, LinearOptions(), CONTEXT)
        adapted = wrapped(input_ids=IDS).logits.detach()
        merged = Shifts().merge(wrapped)
        assert set(dict(merged.named_parameters())) == names
        torch.testing.assert_close(merged(input_ids=IDS).logits.detach(), adapted, rtol=1e-4, atol=1e-4)
        assert (adapted - untouched).abs().max() > 0.1
    base.invalidate()


def test_a_bias_cannot_be_merged_into_a_layer_without_one() -> None:
    base = tiny_base("llama", "none")
    with base.borrow() as model:
        linear = model.model.layers[0].self_attn.q_proj
        before = linear.weight.detach().clone()
        wrapped = Shifts().wrap(model, LinearOptions(), CONTEXT)
        with pytest.raises(AdapterzooError, match=r"q_proj has no bias .* sets mergeable_into = \(\)"):
            Shifts().merge(wrapped)
        assert torch.equal(linear.weight, before)


class Scale(nn.Module):
    """Multiplies each feature, and notes the dtype that it gets."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.full((width,), 1.5, dtype=torch.bfloat16))
        self.seen: set[torch.dtype] = set()

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        self.seen.add(hidden.dtype)
        return hidden * self.factor


class Scales(InsertMethod[Options]):
    """Scales the output of a whole layer, which gives a tensor, and of the attention inside it, which gives a tuple."""

    name, summary, paper = "scales", "scales two places", "-"
    options = Options
    learning_rate, learning_rate_source = 1e-3, "-"

    def inserts(self, model: Any, options: Options) -> dict[str, nn.Module]:
        width = model.config.hidden_size
        return {"model.layers.0": Scale(width), "model.layers.0.self_attn": Scale(width)}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_modules_are_put_behind_a_layer_and_behind_a_block_inside_it(dtype: str) -> None:
    base = tiny_base("llama", "none", dtype)
    with base.borrow() as model:
        layer = model.model.layers[0]
        handles = [
            layer.register_forward_hook(lambda module, given, output: (output.float() * 1.5).to(output.dtype)),
            layer.self_attn.register_forward_hook(
                lambda module, given, output: ((output[0].float() * 1.5).to(output[0].dtype), *output[1:])
            ),
        ]
        expected = model(input_ids=IDS).logits.detach()
        for handle in handles:
            handle.remove()
        wrapped: Any = Scales().wrap(model, Options(), CONTEXT)
        torch.testing.assert_close(wrapped(input_ids=IDS).logits.detach(), expected, rtol=0, atol=0)
        assert {parameter.dtype for parameter in trained(wrapped).values()} == {torch.float32}
        assert wrapped.model.layers[0].inserted.seen == {torch.float32}
        assert wrapped.model.layers[0].self_attn.layer_idx == 0, "what a model reads from its own module"


def test_inserted_modules_load_on_an_untouched_base_and_only_there(tmp_path: Path) -> None:
    base = tiny_base("llama", "none")
    with base.borrow() as model:
        wrapped = Scales().wrap(model, Options(), CONTEXT)
        for parameter in trained(wrapped).values():
            parameter.data.uniform_(0.5, 2.0)
        expected = wrapped(input_ids=IDS).logits.detach()
        Scales().save(wrapped, tmp_path)
    with base.borrow() as model:
        loaded = Scales().load(model, tmp_path, Options(), CONTEXT)
        assert torch.equal(loaded(input_ids=IDS).logits, expected)
    with base.borrow() as model, pytest.raises(AdapterzooError, match="holds no adapter of 'shifts'"):
        Shifts().load(model, tmp_path, LinearOptions(), CONTEXT)


def test_a_module_behind_another_can_be_copied_and_pickled() -> None:
    behind = Behind(nn.Linear(2, 2), nn.Linear(2, 2))
    x = torch.ones(1, 2)
    assert torch.equal(copy.deepcopy(behind)(x), behind(x))
    assert torch.equal(pickle.loads(pickle.dumps(behind))(x), behind(x))
    assert behind.in_features == 2
    with pytest.raises(AttributeError, match="in_chanels"):
        _ = behind.in_chanels
