"""Create tiny models of different architectures, and four rows to memorise; they are random, but always the same."""

from __future__ import annotations

import random
import shutil
import tempfile
from collections.abc import Sequence
from functools import cache
from multiprocessing.util import Finalize
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.families import COMMON, FAMILIES

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.conformance.task_rows import TaskRows
    from adapterzoo.model.base import Base
    from adapterzoo.tasks.examples import ModelForm
    from adapterzoo.tokens.encoded import Encoded

# The first has a gated feed-forward, grouped keys and values, and no biases. The second has one layer for queries, keys
# and values together, biases, and layer norms. A method that works on both seldom depends on the names of layers.
ARCHITECTURES = ("llama", "gpt_neox")
LARGE = "large llama"
BLOCKS_OF_LARGE = 6
CAUSAL = "CAUSAL_LM"
TASK_ARCHITECTURES = {
    "SEQ_CLS": ("llama", "bert"),
    "TOKEN_CLS": ("llama", "bert"),
    "QUESTION_ANS": ("llama", "bert"),
    "FEATURE_EXTRACTION": ("llama", "bert"),
    "SEQ_2_SEQ_LM": ("t5",),
}
"""other type of task -> architectures of the tiny models on which a method is tried for it"""
# Settings that an architecture spells otherwise, and classes other than that of causal language models.
SIZES_OF: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    LARGE: {"num_key_value_heads": 2, "num_hidden_layers": BLOCKS_OF_LARGE, "intermediate_size": 640},
    "bert": {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
    "t5": {
        "d_ff": 256,
        "d_kv": 32,
        "dropout_rate": 0.0,
        "num_decoder_layers": 2,
        "decoder_start_token_id": 0,
        "initializer_factor": 1.0,
    },
}
CLASS_OF = {"bert": "AutoModel", "t5": "AutoModelForSeq2SeqLM"}
VOCABULARY = 128
WIDTH = 128
ROWS = 4
# Numbers of tokens of further rows, on which a trained model is only measured: many, and two long ones.
MANY_ROWS = (*range(4, 35), 48, 210)
EQUAL_ROWS = (9, 9, 9)
FOLDERS: dict[str, Path] = {}
"""architecture -> folder of its model, if another process has saved it"""


@cache
def model_folder(architecture: str) -> Path:
    """Save a model of an architecture with transformers, and return its folder, which is removed when Python ends."""
    import torch
    import transformers

    if architecture in FOLDERS:
        return FOLDERS[architecture]
    sizes: dict[str, Any] = {
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "intermediate_size": 2 * WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 256,
        "initializer_range": 0.1,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "hidden_dropout": 0.0,
        "attention_dropout": 0.0,
        **(SIZES_OF[architecture] if architecture in SIZES_OF else _of_family(architecture)),
    }
    random_state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model_class = getattr(transformers, CLASS_OF.get(architecture, "AutoModelForCausalLM"))
    model = model_class.from_config(transformers.AutoConfig.for_model(architecture.removeprefix("large "), **sizes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):  # a new bias is zero, so a factor that scales it would get no gradient
                parameter.normal_(std=0.1)
    torch.random.set_rng_state(random_state)
    folder = Path(tempfile.mkdtemp(prefix="adapterzoo-"))
    # Unlike tempfile's own, this also removes it at the end of a process of multiprocessing.
    Finalize(None, shutil.rmtree, (folder, True), exitpriority=0)
    model.save_pretrained(folder)
    return folder


def _of_family(architecture: str) -> dict[str, Any]:
    """Return what is special about the tiny model of a family."""
    if architecture not in FAMILIES:
        return {}
    from transformers import AutoConfig

    # A setting that its configuration does not have would mislead a method that looks for it.
    known = AutoConfig.for_model(architecture).to_dict()
    common = {name: value for name, value in COMMON.items() if name in known}
    return {**common, **FAMILIES[architecture].settings}


@cache
def tiny_base(architecture: str, quantization: str, dtype: str = "float32", task_type: str = CAUSAL) -> Base:
    """Return the model of an architecture with one quantization, in the form that a type of task needs."""
    from adapterzoo.model import base
    from adapterzoo.recipe.schema import ModelSection

    folder = model_folder(architecture)
    section = ModelSection(name=str(folder), quantization=quantization, dtype=dtype)  # type: ignore[arg-type]
    return base.load(section, str(folder), quantization, 64, form_for(task_type))


@cache
def tiny_skeleton(architecture: str, task_type: str = CAUSAL) -> Base:
    """Return the model of an architecture without weights, in the form that a type of task needs."""
    from transformers import AutoConfig

    from adapterzoo.model.base import Base
    from adapterzoo.model.skeleton import skeleton
    from adapterzoo.recipe.schema import ModelSection

    folder = str(model_folder(architecture))

    def create() -> nn.Module:  # again if a method has damaged it
        return skeleton(ModelSection(name=folder), AutoConfig.from_pretrained(folder), form_for(task_type))

    return Base(create(), "none", create)


@cache
def joins_rows(architecture: str, quantization: str) -> bool:
    """Tell whether rows of the untouched model of an architecture can be joined behind a common prefix."""
    from adapterzoo.tokens.joining_check import reason_not_to_join

    if architecture in ARCHITECTURES:
        return True
    tried = [example.tokens for example in rows().train]
    with tiny_base(architecture, quantization).borrow() as model:
        return reason_not_to_join(model, tried, 0, quantization) is None


def form_for(task_type: str) -> ModelForm:
    """Return the form of the model that a type of task needs."""
    from adapterzoo.tasks.examples import CAUSAL_FORM

    return CAUSAL_FORM if task_type == CAUSAL else rows_for(task_type).form


@cache
def rows_for(task_type: str) -> TaskRows:
    """Return four rows for a type of task other than causal language models."""
    from adapterzoo.conformance.task_rows import task_rows

    return task_rows(task_type, VOCABULARY, ROWS)


@cache
def rows() -> Encoded:
    """Return four rows of different lengths for causal language models, to train and to measure on."""
    return _rows([6 + 3 * index for index in range(ROWS)])


@cache
def many_rows() -> Encoded:
    """Return more rows than in a training batch, two of them long, to measure on."""
    return _rows(MANY_ROWS)


@cache
def equal_rows() -> Encoded:
    """Return rows of one length, whose batch has no padding, to measure on."""
    return _rows(EQUAL_ROWS)


def _rows(sizes: Sequence[int]) -> Encoded:
    """Return rows of random tokens whose prompts have these numbers of tokens."""
    from adapterzoo.conformance.task_rows import CausalRows
    from adapterzoo.data_row import DataRow
    from adapterzoo.tokens.batches import row_tokens
    from adapterzoo.tokens.encoded import Example

    rng = random.Random(0)
    examples = []
    for index, size in enumerate(sizes):
        prompt = [rng.randrange(3, VOCABULARY) for _ in range(size)]
        completion = [*(rng.randrange(3, VOCABULARY) for _ in range(5)), 2]
        examples.append(
            Example(DataRow.pair(str(index), str(index)), prompt, completion, row_tokens(prompt, completion)[1])
        )
    return CausalRows(
        tokenizer=None,
        train=examples,
        validation=examples[:2],
        test=examples,
        end_ids=[2],
        pad_id=0,
        fingerprint="",
    )
