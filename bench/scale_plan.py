"""Plan comparisons that no machine here can do: memory, time, storage, failures and cost, from configurations alone.

What a cell needs is computed as ``adapterzoo check`` does it. What the machines can do are inputs, each with its
source: none of them was measured here.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from adapterzoo.prepare.needs import Needs, Weights, Work

COUNTED = Path(__file__).with_name("scale_counts.json")
METHODS = ("lora", "rslora", "dora", "adalora", "loha", "lokr", "ia3", "oft", "vera", "miss")
SEEDS = 3


@dataclass(frozen=True, eq=False)
class Model:
    """A model, of which only the configuration is needed, and how it is trained."""

    name: str
    config: dict[str, int]
    devices: int
    """GPUs of one cell. If there are several, they divide the base model (``train.sharding: fsdp2``)."""
    rows: int
    """rows of a training batch on all devices together"""


# Shapes: "The Llama 3 Herd of Models", arXiv 2407.21783, table 3.
SMALL = Model(
    "70B",
    {"hidden_size": 8192, "intermediate_size": 28672, "num_hidden_layers": 80, "num_attention_heads": 64},
    devices=1,
    rows=8,
)
LARGE = Model(
    "405B",
    {"hidden_size": 16384, "intermediate_size": 53248, "num_hidden_layers": 126, "num_attention_heads": 128},
    devices=8,
    rows=8,
)
COMMON = {"vocab_size": 128_256, "num_key_value_heads": 8, "max_position_embeddings": 8192}
QUANTIZATION, DTYPE, QUANTIZED_BYTES = "nf4", "bfloat16", 0.52

STEPS, SAVE_STEPS, POSITIONS, LEARNED = 1000, 100, 1024, 256
EXAMPLES, ANSWERED_ROWS, NEW_TOKENS = 1000, 8, 256

# An H100 SXM by NVIDIA's data sheet: memory, dense bfloat16 operations and bytes of memory read, in a second.
GPU_BYTES, GPU_OPERATIONS, GPU_READS = 80e9, 989e12, 3.35e12
# Assumed. PEFT's own comparison reached a quarter of an L40S with LoRA on an unquantized 3B.
USABLE, REACHED, REACHED_READS = 0.92, 0.25, 0.25
# NVLink of an H100 SXM by its data sheet, in one direction; assumed: half of it is reached.
GPU_SENDS, REACHED_SENDS = 450e9, 0.5
# Assumed: a disk that all machines share, and what one of them reads from it.
DISK_READS, MACHINE_READS = 10e9, 2e9
DOLLARS_AN_HOUR = 2.5  # assumed
# The Llama 3 paper counts 419 unexpected interruptions in 54 days on 16,384 GPUs.
HOURS_TO_FAILURE = 54 * 24 * 16_384 / 419


@cache
def _counted() -> dict[str, Any]:
    return dict(json.loads(COUNTED.read_text(encoding="utf-8")))


def needs(model: Model, method: str) -> Needs:
    """Return what a cell needs on each of its devices, and how many bytes of weights it keeps in all."""
    kept = _counted()[model.name][method]
    weights, step, measuring = Weights(**kept["weights"]), Work(**kept["step"]), Work(**kept["measuring"])
    return Needs(weights, kept["trained"], kept["trained_bytes"], step, measuring)


def write_counts() -> None:
    """Count what the cells need, which takes a minute, and keep it."""
    counts = {model.name: {m: asdict(counted(model, m)) for m in METHODS} for model in (SMALL, LARGE)}
    COUNTED.write_text(json.dumps(counts, indent=1) + "\n", encoding="utf-8")


def counted(model: Model, method: str) -> Needs:
    """Count what a cell needs, with two and three layers of the model."""
    two, three = (_of_layers(model, method, layers) for layers in (2, 3))
    more = model.config["num_hidden_layers"] - 2
    weights = Weights(two.weights.bytes + (three.weights.bytes - two.weights.bytes) * more, two.weights.unpacked)
    return two.more_layers(three, more, weights)


def _of_layers(model: Model, method: str, layers: int) -> Needs:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from adapterzoo.methods.contract import Context
    from adapterzoo.methods.registry import registry
    from adapterzoo.prepare.estimate import Shape, needs_of, weights_of
    from adapterzoo.prepare.traced import padded_batch

    config = LlamaConfig(**{**COMMON, **model.config, "num_hidden_layers": layers}, tie_word_embeddings=False)
    with torch.device("meta"):
        skeleton = LlamaForCausalLM(config).to(getattr(torch, DTYPE)).requires_grad_(False)
    found = registry()[method]
    rows = max(1, model.rows // model.devices)
    shape = Shape(padded_batch(rows, POSITIONS, LEARNED), ANSWERED_ROWS, POSITIONS, checkpointing=True)
    context = Context(quantization=QUANTIZATION, total_steps=STEPS, gradient_accumulation=1, seed=0)
    weights = weights_of(skeleton, QUANTIZATION, DTYPE)
    return needs_of(found, found.options(), context, skeleton, weights, shape, None)


def on_each_gpu(model: Model, method: str) -> tuple[float, float]:
    """Return the memory of training and of measuring on each GPU of a cell."""
    found = needs(model, method)
    elsewhere = _received(model, found)
    whole = 2 * _largest_layer(model) if model.devices > 1 else 0  # one that is computed, one that is on its way
    return found.training_bytes - elsewhere + whole, found.measuring_bytes - elsewhere + whole


def _received(model: Model, found: Needs) -> float:
    """Return the bytes of weights that a GPU gets from the others when it computes with the whole model once."""
    return found.weights.bytes * (1 - 1 / model.devices)


def _sending_seconds(model: Model, found: Needs) -> float:
    """Return how long it takes to send each GPU all weights once, of which computing may hide a part."""
    return _received(model, found) / (GPU_SENDS * REACHED_SENDS)


def _largest_layer(model: Model) -> float:
    """Return the bytes of the largest layer: the embeddings or the head, or a layer of the decoder."""
    width = model.config["hidden_size"]
    return max(2 * COMMON["vocab_size"] * width, QUANTIZED_BYTES * _layer_parameters(model))


def training_seconds(model: Model, method: str) -> float:
    """Return how long a training takes."""
    found = needs(model, method)
    # The backward pass computes a layer's activations again as soon as it has the layer.
    return STEPS * (found.step.operations / (GPU_OPERATIONS * REACHED) + 2 * _sending_seconds(model, found))


def measuring_seconds(model: Model, method: str) -> float:
    """Return how long it takes to read the prompts, and to get and read all weights for each new token of a batch."""
    found, batches = needs(model, method), math.ceil(EXAMPLES / ANSWERED_ROWS)
    reading = found.measuring.operations / (GPU_OPERATIONS * REACHED) + _sending_seconds(model, found)
    answering = NEW_TOKENS * (found.weights.bytes / (GPU_READS * REACHED_READS) + _sending_seconds(model, found))
    return math.ceil(batches / model.devices) * (reading + answering)


def loading_seconds(model: Model, machines: int) -> float:
    """Return how long it takes until each machine has read the files of the model, in bfloat16."""
    parameters = _parameters(model)
    return 2 * parameters / min(MACHINE_READS, DISK_READS / machines)


def _parameters(model: Model) -> float:
    width = model.config["hidden_size"]
    return model.config["num_hidden_layers"] * _layer_parameters(model) + 2 * COMMON["vocab_size"] * width + width


def _layer_parameters(model: Model) -> int:
    width, inner = model.config["hidden_size"], model.config["intermediate_size"]
    head = width // model.config["num_attention_heads"]
    return 2 * width * width + 2 * width * head * COMMON["num_key_value_heads"] + 3 * width * inner + 2 * width


@dataclass(frozen=True)
class Totals:
    """What a whole comparison needs."""

    seconds: float
    gpu_hours: float
    adapters: float
    checkpoints: float
    predictions: float
    interruptions: float
    lost_hours: float


def totals(model: Model, gpus: int, cells: Sequence[str], per_machine: int = 8) -> Totals:
    """Return what a comparison needs.

    Args:
        model: the model.
        gpus: number of GPUs.
        cells: the method of each cell.
        per_machine: GPUs of one machine, whose processes read the model's files from its own memory after the first.
    """
    from adapterzoo.results.claim_files import PATIENCE_SECONDS
    from adapterzoo.running import room
    from adapterzoo.running.forecast import makespan

    at_a_time = gpus // model.devices
    loading = loading_seconds(model, math.ceil(gpus / per_machine))
    each = sorted((training_seconds(model, m) + measuring_seconds(model, m) for m in cells), reverse=True)
    seconds = loading + makespan(each, at_a_time)
    sizes = sorted((needs(model, method).trained for method in cells), reverse=True)
    gpu_hours = seconds * gpus / 3600
    interruptions = gpu_hours / HOURS_TO_FAILURE
    step = max(training_seconds(model, method) for method in cells) / STEPS
    lost = (SAVE_STEPS / 2 * step + PATIENCE_SECONDS + loading) * model.devices / 3600
    return Totals(
        seconds,
        gpu_hours,
        sum(sizes) * room.BYTES_PER_ADAPTER_PARAMETER,
        2 * sum(sizes[:at_a_time]) * room.BYTES_PER_CHECKPOINT_PARAMETER,
        len(cells) * (room.BYTES_PER_CELL + EXAMPLES * room.BYTES_PER_EXAMPLE),
        interruptions,
        interruptions * lost,
    )


def tables() -> Iterator[str]:
    """Yield the lines of the plan, as markdown."""
    for model in (SMALL, LARGE):
        yield from _methods_table(model)
    yield from _totals_table()


def method_row(model: Model, method: str) -> str:
    """Return the line of a method."""
    from adapterzoo.terminal import count, duration, size

    found, (training, measuring) = needs(model, method), on_each_gpu(model, method)
    fits = "no"
    if max(training, measuring) < GPU_BYTES * USABLE:
        fits = "yes" if model.devices == 1 else f"on {model.devices}"
    times = (training_seconds(model, method), measuring_seconds(model, method))
    cells = (count(found.trained), size(found.trained_bytes), size(training), size(measuring), fits)
    return f"| {model.name} | {method} | {' | '.join((*cells, *map(duration, times)))} |"


def _methods_table(model: Model) -> Iterator[str]:
    if model is SMALL:
        yield "| model | method | trained | adapter | training | measuring | fits | to train | to measure |"
        yield "| --- | --- | ---: | ---: | ---: | ---: | --- | ---: | ---: |"
    for method in METHODS:
        yield method_row(model, method)


def _totals_table() -> Iterator[str]:
    from adapterzoo.terminal import count, duration, size

    ten, thousand = [m for m in METHODS for _ in range(SEEDS)], [m for m in METHODS for _ in range(100)]
    yield ""
    titles = "comparison", "GPUs", "at a time", "time", "GPU hours", "cost", "adapters", "checkpoints", "answers"
    yield f"| {' | '.join((*titles, 'failures'))} |"
    yield "| --- |" + " ---: |" * len(titles)
    for model, cells, gpus in (
        (SMALL, ten, 8),
        (SMALL, ten, 64),
        (LARGE, ten, 8),
        (LARGE, ten, 64),
        (SMALL, thousand, 8),
        (SMALL, thousand, 64),
    ):
        found = totals(model, gpus, cells)
        yield (
            f"| {model.name}, {len(cells):,} cells | {gpus} | {gpus // model.devices} | {duration(found.seconds)} "
            f"| {count(found.gpu_hours)} | ${found.gpu_hours * DOLLARS_AN_HOUR:,.0f} | {size(found.adapters)} "
            f"| {size(found.checkpoints)} | {size(found.predictions)} "
            f"| {found.interruptions:.2g}, {found.lost_hours:.2g} GPU hours |"
        )
