"""Create two tiny models of different architectures and four rows to memorise; they are random, but always the same."""

from __future__ import annotations

import random
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapterzoo.model.base import Base
    from adapterzoo.tokens.encode import Encoded

# The first has a gated feed-forward, grouped keys and values, and no biases. The second has one layer for queries, keys
# and values together, biases, and layer norms. A method that works on both seldom depends on the names of layers.
ARCHITECTURES = ("llama", "gpt_neox")
VOCABULARY = 128
WIDTH = 128
ROWS = 4


@cache
def model_folder(architecture: str) -> Path:
    """Save a model of an architecture with transformers, and return its folder, which is removed when Python ends."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 128,
        "initializer_range": 0.1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
    }
    if architecture == "llama":
        sizes["num_key_value_heads"] = 2
    random_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture, **sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # a new bias is zero, so a factor that scales it would get no gradient
                parameter.normal_(std=0.1)
    torch.random.set_rng_state(random_state)
    _folders.append(tempfile.TemporaryDirectory(prefix="adapterzoo-"))
    folder = Path(_folders[-1].name)
    model.save_pretrained(folder)
    return folder


_folders: list[tempfile.TemporaryDirectory[str]] = []


@cache
def tiny_base(architecture: str, quantization: str, dtype: str = "float32") -> Base:
    """Return the model of an architecture with one quantization."""
    from adapterzoo.model import base
    from adapterzoo.recipe.schema import ModelSection

    folder = model_folder(architecture)
    section = ModelSection(name=str(folder), quantization=quantization, dtype=dtype)  # type: ignore[arg-type]
    return base.load(section, str(folder), quantization, max_length=64)


@cache
def tiny_skeleton(architecture: str) -> Base:
    """Return the model of an architecture without weights."""
    from transformers import AutoConfig

    from adapterzoo.model.base import Base
    from adapterzoo.model.loading import skeleton
    from adapterzoo.recipe.schema import ModelSection

    folder = str(model_folder(architecture))
    model = skeleton(ModelSection(name=folder), AutoConfig.from_pretrained(folder))
    return Base(model, "none", lambda: model)


@cache
def rows() -> Encoded:
    """Return four rows of different lengths, to train and to measure on."""
    from adapterzoo.data_row import DataRow
    from adapterzoo.tokens.batches import row_tokens
    from adapterzoo.tokens.encode import Encoded, Example

    rng = random.Random(0)
    examples = []
    for index in range(ROWS):
        prompt = [rng.randrange(3, VOCABULARY) for _ in range(6 + 3 * index)]
        completion = [*(rng.randrange(3, VOCABULARY) for _ in range(5)), 2]
        examples.append(
            Example(DataRow.pair(str(index), str(index)), prompt, completion, row_tokens(prompt, completion)[1])
        )
    return Encoded(
        tokenizer=None,
        train=examples,
        validation=examples[:2],
        test=examples,
        end_ids=[2],
        pad_id=0,
        fingerprint="",
    )
