"""Measure the memory of a training step and of a batch of answers, against what ``check`` computes.

    OMP_NUM_THREADS=1 python bench/memory.py                       # Llamas of 9 to 500 million parameters, some minutes
    OMP_NUM_THREADS=1 python bench/memory.py --size 1b --quantization nf4

The weights are random. Each measurement is in a process of its own. *Step* and *answers* are what is held beside the
weights: the peak of the process (on a GPU, of what it holds there), without what it held before. Freed memory is given
back to the system at once. With ``--kept`` it is not, as in a run, which is faster; the process then grows, because
what it keeps is in pieces.
"""

from __future__ import annotations

import argparse
import ctypes
import tempfile
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROWS, ANSWER = 4, 64  # rows of a batch, and positions of each row that are in the loss
SIZES = {
    "9m": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 4, "num_attention_heads": 4},
    "90m": {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 8, "num_attention_heads": 12},
    "500m": {"hidden_size": 1536, "intermediate_size": 4096, "num_hidden_layers": 14, "num_attention_heads": 16},
    "1b": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16, "num_attention_heads": 32},
}
VOCABULARY = 32_000
M_MMAP_THRESHOLD, SMALL = -3, 65_536  # glibc then gives every larger block back to the system when it is freed


class Figures(NamedTuple):
    """The bytes of the weights, of a step and of a batch of answers."""

    weights: float
    step: float
    answers: float


def make_config(size: str) -> Any:
    """Return the configuration of a Llama."""
    from transformers import LlamaConfig

    heads = SIZES[size]["num_attention_heads"] // 4
    return LlamaConfig(vocab_size=VOCABULARY, num_key_value_heads=heads, tie_word_embeddings=True, **SIZES[size])


def computed(size: str, method: str, quantization: str, dtype: str, positions: int, checkpointing: bool) -> Figures:
    """Return what ``check`` computes from the configuration."""
    import torch
    from transformers import AutoModelForCausalLM

    from adapterzoo.methods.contract import Context
    from adapterzoo.methods.registry import registry
    from adapterzoo.prepare.estimate import Shape, needs_of, weights_of
    from adapterzoo.prepare.traced import padded_batch

    with torch.device("meta"):
        skeleton = AutoModelForCausalLM.from_config(make_config(size)).to(getattr(torch, dtype)).requires_grad_(False)
    found = registry()[method]
    needs = needs_of(
        found,
        found.options(),
        Context(quantization=quantization, total_steps=10, gradient_accumulation=1, seed=0),
        skeleton,
        weights_of(skeleton, quantization, dtype),
        Shape(padded_batch(ROWS, positions, ANSWER), ROWS, positions, checkpointing),
        None,
    )
    state = needs.training_bytes - needs.weights.bytes
    return Figures(needs.weights.bytes, state, needs.measuring_bytes - needs.weights.bytes)


def measured(
    kept: bool, folder: str, method: str, quantization: str, dtype: str, positions: int, checkpointing: bool
) -> Figures:
    """Return what a step and a batch of answers take in this process."""
    import torch

    from adapterzoo.machine.memory import PeakMemory
    from adapterzoo.methods.contract import Context
    from adapterzoo.methods.registry import registry
    from adapterzoo.model import base
    from adapterzoo.recipe.schema import ModelSection

    if not kept:
        ctypes.CDLL("libc.so.6").mallopt(M_MMAP_THRESHOLD, SMALL)
    section = ModelSection(name=folder, dtype=dtype, attention="sdpa")
    loaded = base.load(section, folder, quantization, positions)
    model = loaded.get_model()
    for parameter in model.parameters():  # weights in a mapped file only count once they were read
        parameter.sum()
    found = registry()[method]
    wrapped = found.wrap(model, found.options(), Context(quantization, 10, 1, 0))
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    batch = _batch(1, 2, model.device)
    wrapped(**batch).loss.backward()  # loads libraries and threads
    for parameter in trained:
        parameter.grad = None
    with PeakMemory() as loaded_memory:  # gives freed memory back to the system first
        pass
    before = loaded_memory.bytes - sum(parameter.numel() * parameter.element_size() for parameter in trained)
    batch = _batch(ROWS, positions, model.device)
    with PeakMemory() as answering, torch.no_grad():
        wrapped.eval()
        wrapped(**{**batch, "labels": None, "logits_to_keep": 1}, use_cache=True)
    if checkpointing:
        wrapped.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    wrapped.train()
    optimizer = torch.optim.AdamW(trained, lr=1e-4)
    with PeakMemory() as stepping:
        for _ in range(2):
            wrapped(**batch).loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return Figures(loaded.bytes, stepping.bytes - before, answering.bytes - before)


def _batch(rows: int, positions: int, device: Any) -> dict[str, Any]:
    import torch

    ids = torch.randint(0, VOCABULARY, (rows, positions), device=device)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0  # as in most batches, one row is padded
    kept = min(ANSWER, positions)
    return {"input_ids": ids, "attention_mask": mask, "labels": ids[:, -kept:], "logits_to_keep": kept}


def main() -> None:
    """Print a line for each model and quantization."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, action="append", default=[])
    parser.add_argument("--quantization", choices=("none", "int8", "nf4"), action="append", default=[])
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), action="append", default=[])
    parser.add_argument("--positions", type=int, action="append", default=[])
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--kept", action="store_true", help="keep freed memory, as a run does")
    parser.add_argument("-m", "--method", action="append", default=[])
    given = parser.parse_args()
    from transformers import LlamaForCausalLM

    from adapterzoo.machine.processes import in_processes
    from adapterzoo.terminal import size as shown

    print(f"{'model':6}{'method':9}{'base':6}{'dtype':10}{'tokens':>7}" + "".join(f"{n:>24}" for n in Figures._fields))
    for size in given.size or ("9m", "90m", "500m"):
        with tempfile.TemporaryDirectory() as folder:
            LlamaForCausalLM(make_config(size)).save_pretrained(folder)
            (Path(folder) / "tokenizer_config.json").write_text("{}", encoding="utf-8")
            for dtype in given.dtype or ("float32", "bfloat16"):
                for quantization in given.quantization or ("none",):
                    for positions in given.positions or (128, 512):
                        for method in given.method or ("lora",):
                            settings = (method, quantization, dtype, positions, given.checkpointing)
                            (real,) = in_processes([partial(measured, given.kept, folder, *settings)], 1)
                            (found,) = in_processes([partial(computed, size, *settings)], 1)
                            if isinstance(real, Exception):
                                raise real
                            parts = [
                                f"{shown(r):>9}{shown(c):>9}{r / c:>6.2f}" for r, c in zip(real, found, strict=True)
                            ]
                            print(
                                f"{size:6}{method:9}{quantization:6}{dtype:10}{ROWS * positions:7}" + "".join(parts),
                                flush=True,
                            )


if __name__ == "__main__":
    main()
