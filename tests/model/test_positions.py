"""Check how many tokens models with learned positions can read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from adapterzoo.model.positions import learned_positions, readable

SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 20}


@pytest.mark.parametrize(
    ("family", "settings", "expected"),
    [
        ("gpt2", {"n_positions": 40, "n_embd": 16, "n_layer": 1, "n_head": 2, "vocab_size": 20}, 40),
        ("opt", {**SIZES, "max_position_embeddings": 40, "ffn_dim": 16, "word_embed_proj_dim": 16}, 40),
        ("bert", {**SIZES, "max_position_embeddings": 40}, 40),
        ("roberta", {**SIZES, "max_position_embeddings": 42}, 40),
        ("llama", {**SIZES, "max_position_embeddings": 40}, None),
    ],
)
def test_one_token_more_than_the_learned_positions_fails(
    family: str, settings: dict[str, Any], expected: int | None
) -> None:
    config = AutoConfig.for_model(family, **settings)
    model = AutoModel.from_config(config).eval()
    assert learned_positions(model) == expected
    assert readable(model, config) == 40
    with torch.no_grad():
        model(input_ids=torch.full((1, 40), 5))
        if expected is not None:
            with pytest.raises((IndexError, RuntimeError)):
                model(input_ids=torch.full((1, 41), 5))
