"""Check how many tokens models with learned positions can read."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

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


def test_a_long_text_for_an_encoder_is_not_limited_by_a_decoder_with_fewer_positions() -> None:
    """LED reads 16,384 tokens and writes 1,024: rows of more than 1,024 were refused."""
    sizes = {"d_model": 16, "vocab_size": 20, "attention_window": 4}
    kinds = ("layers", "attention_heads", "ffn_dim")
    sides = {f"{side}_{kind}": 2 for side in ("encoder", "decoder") for kind in kinds}
    positions = {"max_encoder_position_embeddings": 64, "max_decoder_position_embeddings": 32}
    config = AutoConfig.for_model("led", **sizes, **sides, **positions)
    model = AutoModel.from_config(config).eval()
    assert learned_positions(model) == 64
    with torch.no_grad():
        model(input_ids=torch.full((1, 64), 5), decoder_input_ids=torch.full((1, 32), 5))


def test_the_positions_of_a_part_for_images_do_not_limit_the_tokens() -> None:
    """Rows of more than 4,096 tokens were refused for Gemma 3, which sees an image in as many parts."""
    parts = {**SIZES, "num_key_value_heads": 1, "head_dim": 8}
    image = {**SIZES, "image_size": 8, "patch_size": 4}
    config = AutoConfig.for_model("gemma3", text_config=parts, vision_config=image, mm_tokens_per_image=4)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    assert any(name.endswith("position_embedding") for name, _ in model.named_modules())
    assert learned_positions(model) is None
    assert readable(model, config) is None
