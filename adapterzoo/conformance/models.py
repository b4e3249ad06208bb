"""Two tiny models of unlike architecture, and four rows to memorise. Made here, random, the same every time."""

from __future__ import annotations

import random
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from adapterzoo.model.base import Base
    from adapterzoo.tokens.encode import Encoded

# One has a gated feed-forward, grouped keys and values, and no biases; the other one layer for queries, keys and
# values together, biases, and layer norms. What works on both seldom depends on names.
ARCHITECTURES = ("llama", "gpt_neox")
VOCABULARY = 128
WIDTH = 128
ROWS = 4


@cache
def model_folder(architecture: str) -> Path:
    """A model of an architecture, saved as transformers saves it; removed when Python ends."""
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
            if name.endswith("bias"):  # zero in a new model, and then what is multiplied by one has no gradient
                parameter.normal_(std=0.1)
    torch.random.set_rng_state(random_state)
    _folders.append(tempfile.TemporaryDirectory(prefix="adapterzoo-"))
    folder = Path(_folders[-1].name)
    model.save_pretrained(folder)
    return folder


_folders: list[tempfile.TemporaryDirectory[str]] = []


@cache
def tiny_base(architecture: str, quantization: str, dtype: str = "float32") -> Base:
    """The model of an architecture with one quantization."""
    from adapterzoo.model import base
    from adapterzoo.recipe.schema import ModelSection

    folder = model_folder(architecture)
    section = ModelSection(name=str(folder), quantization=quantization, dtype=dtype)  # type: ignore[arg-type]
    return base.load(section, str(folder), quantization, max_length=64)


@cache
def tiny_skeleton(architecture: str) -> Base:
    """The model of an architecture without weights."""
    from transformers import AutoConfig

    from adapterzoo.model.base import Base
    from adapterzoo.model.loading import skeleton
    from adapterzoo.recipe.schema import ModelSection

    folder = str(model_folder(architecture))
    made = skeleton(ModelSection(name=folder), AutoConfig.from_pretrained(folder))
    return Base(made, "none", lambda: made)


@cache
def rows() -> Encoded:
    """Four rows of unequal length, to train on and to measure with."""
    from adapterzoo.row import Row
    from adapterzoo.tokens.batches import asked
    from adapterzoo.tokens.encode import Encoded, Example

    draw = random.Random(0)
    examples = []
    for index in range(ROWS):
        prompt = [draw.randrange(3, VOCABULARY) for _ in range(6 + 3 * index)]
        completion = [*(draw.randrange(3, VOCABULARY) for _ in range(5)), 2]
        examples.append(Example(Row.pair(str(index), str(index)), prompt, completion, asked(prompt, completion)[1]))
    return Encoded(None, examples, examples[:2], examples, end_ids=[2], pad_id=0, fingerprint="")
