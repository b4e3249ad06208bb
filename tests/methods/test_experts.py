"""Check that methods reach the same layers of a mixture of experts, and its fused experts only where asked to."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from mixtures import FAMILIES, mixture, save_mixture
from peft import PeftModel

from adapterzoo import Context, linear_layers
from adapterzoo.methods.registry import registry

TOKENS = torch.tensor([[5, 9, 33, 71, 20, 14], [3, 44, 8, 90, 17, 61]])
CONTEXT = Context(quantization="none", total_steps=3, gradient_accumulation=1, seed=0)


def trained(model: Any, name: str, **options: Any) -> Any:
    method = registry()[name]
    torch.manual_seed(0)
    wrapped = method.wrap(model, method.options(**options), CONTEXT)
    optimizer = torch.optim.AdamW([p for p in wrapped.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(3):
        wrapped(input_ids=TOKENS, labels=TOKENS).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return wrapped.eval()


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(input_ids=TOKENS).logits


def of_mixture(recipe: Path, tiny_model: Path) -> Path:
    model = save_mixture("qwen3_moe", tiny_model, recipe.parent / "mixture")
    recipe.write_text(recipe.read_text().replace(str(tiny_model), str(model)))
    return recipe


@pytest.mark.parametrize("family", FAMILIES)
def test_all_linear_is_the_same_layers_for_lora_as_for_other_methods(family: str) -> None:
    layers = {name.replace(".", "/") for name in linear_layers(mixture(family))}
    for name in ("lora", "dora", "loha"):
        method, model = registry()[name], mixture(family)
        wrapped = method.wrap(model, method.options(), CONTEXT)
        reached = {
            "/".join(name.removeprefix("base_model.model.").split(".")[: -2 if "lora" in name else -1]).split("/lora")[
                0
            ]
            for name, parameter in wrapped.named_parameters()
            if parameter.requires_grad
        }
        assert {name.split("/hada")[0] for name in reached} == layers


@pytest.mark.parametrize("family", FAMILIES)
def test_fused_experts_are_trained_saved_and_merged(family: str, tmp_path: Path) -> None:
    base = mixture(family)
    wrapped = trained(copy.deepcopy(base), "lora", target_parameters="all-experts")
    experts = [p for name, p in wrapped.named_parameters() if "experts" in name and "lora_B" in name]
    assert experts
    assert all(p.abs().sum() > 0 for p in experts)
    after, method = logits(wrapped), registry()["lora"]
    assert (after - logits(base)).abs().max() > 0.1
    method.save(wrapped, tmp_path)
    options = method.options(target_parameters="all-experts")
    assert torch.equal(logits(method.load(copy.deepcopy(base), tmp_path, options, CONTEXT).eval()), after)
    assert (logits(PeftModel.from_pretrained(copy.deepcopy(base), str(tmp_path)).eval()) - after).abs().max() < 1e-5
    assert (logits(method.merge(wrapped)) - after).abs().max() < 1e-5


def test_check_says_how_much_of_the_model_is_reached(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tiny_model: Path
) -> None:
    both = "lora, loha, {name: lora, label: experts, target_parameters: [experts.down_proj]}"
    done = adapterzoo("check", of_mixture(write_recipe(both), tiny_model))
    assert done.exit_code == 0
    lines = done.stdout.replace("\n", " ")
    assert "lora, loha: target_modules all-linear reaches 12." in lines
    assert "experts: target_modules all-linear with target_parameters experts.down_proj reaches" in lines
    assert "33% of fused experts" in lines
    assert "target_parameters: all-experts reach them: lora, qlora, rslora" in lines


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("target_parameters: [experts.down_prj]", "'experts.down_prj' is no fused weight. Did you mean"),
        ("target_parameters: all-experts, lora_dropout: 0.1", "lora_dropout: is not possible for fused experts"),
    ],
)
def test_wrong_targets_are_refused(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tiny_model: Path, option: str, expected: str

) -> None:  # fmt: skip
    done = adapterzoo("check", of_mixture(write_recipe(f"{{name: lora, {option}}}"), tiny_model))
    assert done.exit_code == 2
    assert expected in done.stderr.replace("\n", " ")


def test_a_model_without_experts_is_named(write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]) -> None:
    done = adapterzoo("check", write_recipe("{name: lora, target_parameters: all-experts}"))
    assert done.exit_code == 2
    assert "the model has no fused experts. Leave it out." in done.stderr.replace("\n", " ")


def test_results_from_before_an_option_existed_still_count(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    from adapterzoo.results.reading import read_result
    from adapterzoo.results.result import result_text

    out = tmp_path / "o"
    assert adapterzoo("run", write_recipe("lora", "jobs: 0\n"), "--out", out).exit_code == 0
    path = out / "lora" / "seed-0" / "result.json"
    result = read_result(path)
    del result.options["target_parameters"]
    path.write_text(result_text(result), encoding="utf-8")
    done = adapterzoo("run", write_recipe("lora", "jobs: 0\n"), "--out", out)
    assert done.exit_code == 0
    assert "already done" in done.stderr
    changed = json.loads(path.read_text(encoding="utf-8"))
    assert "target_parameters" not in changed["options"]
