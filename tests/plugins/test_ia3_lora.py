"""IA3 with LoRA is exactly its two parts, together."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adapterzoo import Context, registry, trained
from adapterzoo.conformance.models import tiny_base

CONTEXT = Context(quantization="none", total_steps=10, gradient_accumulation=1, seed=0)
IDS = torch.arange(3, 23).view(2, 10)
METHOD = "ia3-lora"


def wrapped(name: str, model: Any) -> Any:
    method = registry()[name]
    return method.wrap(model, method.options(), CONTEXT)


def randomize(model: Any, factors: bool, updates: bool) -> None:
    """Give IA3's factors, LoRA's matrices or both random numbers, the same ones whatever wraps the model."""
    for name, parameter in trained(model).items():
        if factors if ".ia3_l." in name else updates:
            place = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            generator = torch.Generator().manual_seed(sum(map(ord, place)))
            noise = torch.randn(parameter.shape, generator=generator) / 10
            parameter.data.copy_(1 + noise if ".ia3_l." in name else noise)


def results(name: str, factors: bool, updates: bool) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the logits, and the gradients of the part that was given random numbers."""
    with tiny_base("llama", "none").borrow() as model:
        torch.manual_seed(0)
        adapted = wrapped(name, model)
        randomize(adapted, factors, updates)
        output = adapted(input_ids=IDS, labels=IDS)
        output.loss.backward()
        gradients = {
            name.removeprefix("base_model.model.").replace(".base_layer.", "."): parameter.grad.clone()
            for name, parameter in trained(adapted).items()
            if (factors if ".ia3_l." in name else updates)
        }
        return output.logits.detach(), gradients


@pytest.mark.parametrize(("part", "factors"), [("ia3", True), ("lora-scratch", False)])
def test_with_one_part_untrained_it_is_the_other_part(part: str, factors: bool) -> None:
    both, alone = results(METHOD, factors, not factors), results(part, factors, not factors)
    torch.testing.assert_close(both[0], alone[0], rtol=1e-5, atol=1e-5)
    assert both[1].keys() == alone[1].keys()
    assert len(both[1]) == (6 if factors else 2 * 7 * 2)
    for name, gradient in both[1].items():
        torch.testing.assert_close(gradient, alone[1][name], rtol=1e-4, atol=1e-6)


def test_a_layer_multiplies_the_output_of_lora_by_the_factors_of_ia3() -> None:
    with tiny_base("llama", "none").borrow() as model:
        adapted = wrapped(METHOD, model)
        randomize(adapted, factors=True, updates=True)
        layer = model.model.layers[0]
        for scaled, multiplies_input in ((layer.self_attn.v_proj, False), (layer.mlp.down_proj, True)):
            lora, factor = scaled.base_layer, scaled.ia3_l["default"].flatten()
            weight = lora.base.weight + 4.0 * lora.b @ lora.a  # lora_alpha / r is 4
            x = torch.randn(3, weight.shape[1])
            expected = (x * factor) @ weight.T if multiplies_input else (x @ weight.T) * factor
            torch.testing.assert_close(scaled(x), expected, rtol=1e-4, atol=1e-4)


def test_each_part_has_its_own_learning_rate_also_after_saving(tmp_path: Path) -> None:
    method = registry()[METHOD]
    with tiny_base("llama", "none").borrow() as model:
        adapted = wrapped(METHOD, model)
        before = set(trained(adapted))
        method.save(adapted, tmp_path)
        assert set(trained(adapted)) == before, "saving a checkpoint must not stop the training"
        settings = {"lr": method.learning_rate, "weight_decay": 0.0}
        optimizer = method.optimizer(adapted, method.options(), torch.optim.AdamW, settings)
        names = {id(parameter): name for name, parameter in trained(adapted).items()}
        rates = {names[id(p)]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates.keys() == before
    for name, rate in rates.items():
        own = registry()["ia3" if ".ia3_l." in name else "lora"].learning_rate
        assert rate == pytest.approx(own), name


def test_the_part_of_ia3_loads_in_plain_peft(tmp_path: Path) -> None:
    from peft import PeftModel

    base, method = tiny_base("llama", "none"), registry()[METHOD]
    with base.borrow() as model:
        adapted = wrapped(METHOD, model)
        randomize(adapted, factors=True, updates=False)
        method.save(adapted, tmp_path)
        expected = adapted(input_ids=IDS).logits.detach()
    with base.borrow() as model:
        loaded = PeftModel.from_pretrained(model, tmp_path / "ia3")
        torch.testing.assert_close(loaded(input_ids=IDS).logits.detach(), expected, rtol=1e-5, atol=1e-5)


def test_its_hint_names_no_option_that_it_does_not_have() -> None:
    from adapterzoo.conformance.models import tiny_skeleton

    method = registry()[METHOD]
    skeleton = tiny_skeleton("bert", "SEQ_CLS").get_model()
    (problem,) = method.problems(skeleton, method.options(), CONTEXT)
    assert problem.where == "model"
    assert "target_modules" not in problem.hint
