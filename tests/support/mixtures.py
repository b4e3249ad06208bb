"""Tiny mixtures of experts of four architectures, with random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

COMMON = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "head_dim": 8,
    "max_position_embeddings": 256,
}  # fmt: skip
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3_moe": {
        "num_key_value_heads": 2, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32,
        "decoder_sparse_step": 1,
    },
    "mixtral": {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {"num_key_value_heads": 2, "num_local_experts": 4, "num_experts_per_tok": 2},
    "deepseek_v3": {
        "num_key_value_heads": 4, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1,
        "moe_intermediate_size": 32, "first_k_dense_replace": 1, "n_shared_experts": 1, "q_lora_rank": 16,
        "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 16,
    },
}  # fmt: skip


def mixture(family: str, vocabulary: int = 128, **changes: Any) -> Any:
    """Return a tiny mixture of experts."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    settings = {**COMMON, **FAMILIES[family], "pad_token_id": 0, "vocab_size": vocabulary, **changes}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings)).eval()


def save_mixture(family: str, tokenizer_folder: Path, folder: Path, **changes: Any) -> Path:
    """Save a tiny mixture of experts with the tokenizer of another model; return its folder."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "eos_token_id", "bos_token_id")}
    mixture(family, len(tokenizer), **ids, **changes).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
