"""Check that a model is named whose padded rows get other results than rows alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from adapterzoo.tokens.batches import Tokens
from adapterzoo.tokens.padding_check import change_by_padding

ROWS: list[Tokens] = [([*range(5, 5 + length)], [False] * (length - 3) + [True] * 3) for length in (12, 9, 24)]
SAID = "padding changes this model's logits by"
WITHOUT_PADDING = (
    "--set", "evaluate.batch_size=1", "--set", "train.batch_size=1", "--set", "train.gradient_accumulation=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def recurrent(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a model whose recurrent layers go through padding."""
    folder, tokenizer = tmp_path_factory.mktemp("recurrent"), AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        "recurrent_gemma",
        vocab_size=len(tokenizer),
        hidden_size=64,
        lru_width=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        block_types=["recurrent", "attention"],
        pad_token_id=None,  # transformers would set the embedding of this token to zero
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_attention_does_not_see_padding_and_a_recurrent_layer_does(tiny_model: Path, recurrent: Path) -> None:
    changes = [
        change_by_padding(AutoModelForCausalLM.from_pretrained(folder), ROWS, 2) for folder in (tiny_model, recurrent)
    ]
    assert changes[0] == 0
    assert changes[1] > 1e-3


def test_a_run_names_it_unless_nothing_is_padded(
    recurrent: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("lora", steps="2")
    sets = ("--set", f"model.name={recurrent}", "--set", "jobs=0", "--set", "evaluate.metrics=[loss]")
    padded = adapterzoo("run", recipe, *sets, "--out", tmp_path / "padded")
    assert f"lora: {SAID}" in padded.stderr
    assert f"base: {SAID}" in padded.stderr
    alone = adapterzoo("run", recipe, *sets, *WITHOUT_PADDING, "--out", tmp_path / "alone")
    assert alone.exit_code == 0
    assert SAID not in alone.stderr
