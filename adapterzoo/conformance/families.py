"""List the model families on which the kit can use a method, each as the settings of a tiny model.

A family is named as in the ``config.json`` of its models. What is not given here is the same for all (``models.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

_MIXTURE = {"num_experts": 4, "num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64}
_GROUPED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64, "n_group": 1, "topk_group": 1}
_LINEAR = {
    "linear_num_key_heads": 2, "linear_num_value_heads": 4, "linear_key_head_dim": 32, "linear_value_head_dim": 32,
    "layer_types": ["linear_attention", "full_attention"],
}  # fmt: skip
_MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 32, "mamba_d_state": 16}


class Family(NamedTuple):
    """A family of models."""

    kind: str
    """what is special about it"""
    settings: Mapping[str, Any] = MappingProxyType({})
    """settings of its tiny model that differ from those of the others"""


FAMILIES = {
    "llama": Family("dense"),
    "mistral": Family("dense"),
    "ministral3": Family("dense"),
    "qwen2": Family("dense, with biases"),
    "qwen3": Family("dense, queries and keys normed"),
    "smollm3": Family("dense, layers without positions"),
    "phi": Family("dense, no gate, with biases"),
    "phi3": Family("dense, fused queries, keys and values"),
    "olmo2": Family("dense, norms after the blocks"),
    "granite": Family("dense, scaled residuals"),
    "glm4": Family("dense, fused gate"),
    "starcoder2": Family("dense, no gate"),
    "seed_oss": Family("dense, with biases", {"residual_dropout": 0.0}),
    "ernie4_5": Family("dense"),
    "exaone4": Family("dense"),
    "apertus": Family("dense, an activation with parameters"),
    "gpt2": Family(
        "dense, transposed weights, tied head",
        {"n_inner": 256, "attn_pdrop": 0.0, "resid_pdrop": 0.0, "embd_pdrop": 0.0},
    ),
    "gpt_neox": Family("dense, fused, parallel blocks"),
    "opt": Family("dense, learned positions", {"ffn_dim": 256, "word_embed_proj_dim": 128, "dropout": 0.0}),
    "bloom": Family("dense, ALiBi, fused"),
    "gemma": Family("dense, tied head"),
    "gemma2": Family("sliding window, tied head", {"query_pre_attn_scalar": 32}),
    "gemma3_text": Family("sliding window; the text part of Gemma 3", {"query_pre_attn_scalar": 32}),
    "olmo3": Family("sliding window"),
    "cohere2": Family("sliding window, parallel blocks, tied head"),
    "mixtral": Family("mixture of experts", _MIXTURE),
    "qwen3_moe": Family("mixture of experts", {**_MIXTURE, "decoder_sparse_step": 1}),
    "gpt_oss": Family("mixture of experts, sliding window", _MIXTURE),
    "olmoe": Family("mixture of experts", _MIXTURE),
    "granitemoe": Family("mixture of experts", _MIXTURE),
    "glm4_moe": Family("mixture of experts, one dense layer", {**_GROUPED, "first_k_dense_replace": 1}),
    "deepseek_v3": Family(
        "mixture of experts, latent attention",
        {
            **_GROUPED, "first_k_dense_replace": 1, "n_shared_experts": 1, "num_key_value_heads": 4, "head_dim": 16,
            "q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32,
        },
    ),
    "llama4_text": Family("mixture of experts; the text part of Llama 4", {**_MIXTURE, "intermediate_size_mlp": 256}),
    "qwen3_next": Family(
        "hybrid of linear attention, mixture of experts", {**_MIXTURE, **_LINEAR, "shared_expert_intermediate_size": 64}
    ),
    "qwen3_5_text": Family("hybrid of linear attention; the text part of Qwen 3.5", _LINEAR),
    "lfm2": Family("hybrid of convolutions", {"layer_types": ["conv", "full_attention"], "block_ff_dim": 256}),
    "falcon_h1": Family(
        "hybrid of Mamba", {"mamba_d_ssm": 128, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_state": 16}
    ),
    "bamba": Family("hybrid of Mamba", {**_MAMBA, "attn_layer_indices": [1]}),
    "granitemoehybrid": Family(
        "hybrid of Mamba, mixture of experts",
        {**_MIXTURE, **_MAMBA, "layer_types": ["mamba", "attention"], "shared_intermediate_size": 64},
    ),
    "recurrent_gemma": Family(
        "hybrid of a linear recurrence", {"lru_width": 128, "block_types": ["recurrent", "attention"]}
    ),
    "mamba2": Family("Mamba alone", {"num_heads": 8, "head_dim": 32, "state_size": 16, "n_groups": 2, "expand": 2}),
}  # fmt: skip
COMMON = {"num_key_value_heads": 2, "head_dim": 32}
