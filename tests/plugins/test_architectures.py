"""A method adapts the same parts of every architecture, whatever the names of its layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from adapterzoo import Context, linear_layers
from adapterzoo.methods.registry import registry

CONTEXT = Context(quantization="none", total_steps=10, gradient_accumulation=1, seed=0)
FAMILIES = ("llama", "qwen2", "qwen3", "phi", "phi3", "gpt2", "gpt_neox", "mistral", "gemma", "gemma2")
WIDTH, INNER, HEADS, KV_HEADS, LAYERS = 64, 96, 4, 2, 2


def tiny(family: str) -> Any:
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        family, vocab_size=64, hidden_size=WIDTH, intermediate_size=INNER, n_inner=INNER, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, num_key_value_heads=KV_HEADS, head_dim=WIDTH // HEADS, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config)


def trained_parameters(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def train_two_steps(model: Any) -> None:
    """Take two steps with weight decay, like the trainer."""
    optimizer = torch.optim.AdamW(trained_parameters(model).values(), lr=0.05, weight_decay=0.1)
    ids = torch.arange(3, 15)[None]
    for _ in range(2):
        model(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("name", ["lora", "dora", "rslora", "lora-fa", "loraplus", "lora-scratch", "adalora"])
def test_the_lora_family_adapts_every_linear_layer_but_the_head(name: str, family: str) -> None:
    model, method = tiny(family), registry()[name]
    layers = len(linear_layers(model))
    names = trained_parameters(method.wrap(model, method.options(), CONTEXT))
    # Count the B matrices, because every method of the family trains one in each layer.
    matrices = [name for name in names if name.endswith((".lora_B.default.weight", ".lora_B.default", ".b"))]
    assert len(matrices) == layers >= LAYERS * 4
    assert not any("lm_head" in name or "embed_out" in name for name in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_ia3_rescales_keys_values_and_the_feed_forwards_second_layer(family: str) -> None:
    model, method = tiny(family), registry()["ia3"]
    context = CONTEXT
    assert method.problems(model, method.options(), context) == []
    wrapped = method.wrap(model, method.options(), context)
    train_two_steps(wrapped)
    for callback in method.callbacks(method.options(), context):
        callback.on_step_end(None, None, None, model=wrapped)
    changed = {name: int((factors != 1).sum()) for name, factors in trained_parameters(wrapped).items()}
    feed_forward = {name: count for name, count in changed.items() if ".mlp." in name}
    attention = sum(count for name, count in changed.items() if name not in feed_forward)
    grouped = family not in ("gpt2", "gpt_neox")
    keys = WIDTH * KV_HEADS // HEADS if grouped else WIDTH
    assert sum(feed_forward.values()) == LAYERS * INNER, "the feed-forward's inner activations"
    assert attention == LAYERS * 2 * keys, "keys and values, and no query"


@pytest.mark.parametrize("down", ["down_proj", "mlp.down_proj"])
def test_ia3_knows_the_feed_forward_by_the_end_of_its_name(down: str) -> None:
    model, method = tiny("llama"), registry()["ia3"]
    options = method.options(target_modules=["self_attn.k_proj", "v_proj", down])
    assert method.problems(model, options, CONTEXT) == []
    names = trained_parameters(method.wrap(model, options, CONTEXT))
    sizes = {factors.numel() for name, factors in names.items() if ".mlp." in name}
    assert sizes == {INNER}, "its input is rescaled, not its output"


def test_ia3_refuses_an_architecture_with_unknown_names() -> None:
    model, method = tiny("llama"), registry()["ia3"]
    for layer in model.model.layers:
        layer.mlp.other = layer.mlp.down_proj
        del layer.mlp.down_proj
    (problem,) = method.problems(model, method.options(), CONTEXT)
    assert "'other'" in problem.hint
