"""A method means the same on every architecture, whatever that calls its layers."""

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


def trained(model: Any) -> dict[str, torch.nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def step(model: Any) -> None:
    """Two steps with weight decay, as the trainer takes them."""
    optimizer = torch.optim.AdamW(trained(model).values(), lr=0.05, weight_decay=0.1)
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
    names = trained(method.wrap(model, method.options(), CONTEXT))
    # B of each layer, which every one of them trains.
    seconds = [n for n in names if n.endswith((".lora_B.default.weight", ".lora_B.default", ".b"))]
    assert len(seconds) == layers >= LAYERS * 4
    assert not any("lm_head" in n or "embed_out" in n for n in names)


@pytest.mark.parametrize("family", FAMILIES)
def test_ia3_rescales_keys_values_and_the_feed_forwards_second_layer(family: str) -> None:
    model, method = tiny(family), registry()["ia3"]
    context = CONTEXT
    assert method.problems(model, method.options(), context) == []
    wrapped = method.wrap(model, method.options(), context)
    step(wrapped)
    for callback in method.callbacks(method.options(), context):
        callback.on_step_end(None, None, None, model=wrapped)
    moved = {name: int((p != 1).sum()) for name, p in trained(wrapped).items()}
    feed_forward = {name: n for name, n in moved.items() if ".mlp." in name}
    attention = sum(n for name, n in moved.items() if name not in feed_forward)
    grouped = family not in ("gpt2", "gpt_neox")
    keys = WIDTH * KV_HEADS // HEADS if grouped else WIDTH
    assert sum(feed_forward.values()) == LAYERS * INNER, "the feed-forward's inner activations"
    assert attention == LAYERS * 2 * keys, "keys and values, and no query"


def test_ia3_says_what_it_does_not_know() -> None:
    model, method = tiny("llama"), registry()["ia3"]
    for layer in model.model.layers:
        layer.mlp.other = layer.mlp.down_proj
        del layer.mlp.down_proj
    (problem,) = method.problems(model, method.options(), CONTEXT)
    assert "'other'" in problem.hint
