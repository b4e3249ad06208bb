"""Copy a model one part after the other: each weight is in one part, and saved together they are the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from cells import assert_same, saved_weights
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from adapterzoo.adapters.merged_files import MergedFiles
from adapterzoo.conformance.models import model_folder, tiny_base
from adapterzoo.model import base, parts
from adapterzoo.recipe.schema import ModelSection


@pytest.fixture(autouse=True)
def little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the free memory be enough for one block of a model."""
    monkeypatch.setattr(parts, "available", lambda: 1)


# Tied embeddings, fused experts of two forms, a layer for queries, keys and values, and layers without attention.
@pytest.mark.parametrize("family", ["gemma3_text", "mixtral", "gpt_oss", "bloom", "qwen3_next"])
def test_the_parts_are_the_model(family: str, tmp_path: Path) -> None:
    files, count = MergedFiles(tmp_path / "model"), 0
    with tiny_base(family, "none").borrow() as model:
        for part in parts.parts(model, "none", "float32"):
            part.leave_out(part.model)
            files.add(part.model)
            count += 1
    files.finish(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a"))))
    assert count > 1
    assert_same(saved_weights(tmp_path / "model"), saved_weights(model_folder(family)))


def test_only_one_block_has_content_at_a_time(tiny_model: Path) -> None:
    section = ModelSection(name=str(tiny_model), quantization="nf4", dtype="float32")
    loaded = base.load(section, str(tiny_model), "nf4", 64)
    with loaded.borrow() as model:
        before = {name: id(module) for name, module in model.named_modules()}
        found: list[set[str]] = []
        for part in parts.parts(model, "nf4", "float32"):
            found.append({name for name, tensor in part.model.named_parameters() if not parts.is_empty(tensor)})
            stored = sum(p.untyped_storage().nbytes() for p in part.model.parameters() if parts.is_empty(p))
            assert stored < 1000, "zeros take no memory"
            assert all(parameter.is_floating_point() for parameter in part.model.parameters())
        assert {name: id(module) for name, module in model.named_modules()} == before
    blocks = [{name for name in names if ".layers." in name} for names in found]
    assert all(name.startswith("model.layers.0.") for name in blocks[0])
    assert all(name.startswith("model.layers.1.") for name in blocks[1])
    assert found[1] == blocks[1], "what is in no block belongs to the first part"
    assert not loaded.was_changed


def test_blocks_that_share_weights_stay_together() -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    model: Any = LlamaForCausalLM(
        LlamaConfig(vocab_size=16, hidden_size=16, intermediate_size=16, num_attention_heads=2, num_hidden_layers=3)
    )
    model.model.layers[2].self_attn.q_proj.weight = model.model.layers[0].self_attn.q_proj.weight
    (only,) = parts.parts(model, "none", "float32")
    assert only.total == 1
    layers = only.model.model.layers
    assert layers[2].self_attn.q_proj.weight is layers[0].self_attn.q_proj.weight
