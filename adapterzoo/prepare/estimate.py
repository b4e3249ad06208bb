"""Estimate what a cell needs from the model's configuration alone.

No weight is loaded, so it also works for models that fit no machine here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from heapq import nlargest
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import failure_reason
from adapterzoo.machine.memory import BYTES_PER_TRAINED_PARAMETER
from adapterzoo.machine.processes import cores, in_processes
from adapterzoo.methods.contract import Context, Method
from adapterzoo.methods.registry import registry
from adapterzoo.model.placing import CPU, DISK
from adapterzoo.prepare.needs import Needs, Weights
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.prepared import Prepared
from adapterzoo.quantizations.contract import NONE
from adapterzoo.quantizations.registry import quantizations

if TYPE_CHECKING:
    from torch import nn

BYTES_PER_PARAMETER = {"float32": 4.0, "bfloat16": 2.0, "float16": 2.0}
"""dtype -> bytes of a weight that is not quantized"""
MAX_REASON = 150  # characters


@dataclass(frozen=True)
class Shape:
    """The largest batches of a cell."""

    batch: dict[str, Any]
    """arguments of the model's ``forward`` for a training batch"""
    rows: int
    """rows of a batch of answers"""
    positions: int
    """tokens of the longest prompt with its answer"""
    checkpointing: bool = False
    """whether activations are computed again in the backward pass"""


def weights_of(skeleton: nn.Module, quantization: str, dtype: str, parts: int = 1) -> Weights:
    """Return how the weights of a model without weights will be stored.

    Args:
        skeleton: the model.
        quantization: name of the quantization.
        dtype: name of the dtype of the weights that are not quantized.
        parts: number of processes that divide the weights; each also holds two whole layers, one of which is computed
            while the next arrives.
    """
    from adapterzoo.methods.targets import linear_layers

    whole = _whole_weights(skeleton, quantization, dtype)
    if parts == 1:
        return whole

    from adapterzoo.model.layers import layers

    stored, plain = quantizations()[quantization].bytes_per_parameter, BYTES_PER_PARAMETER[dtype]
    linear = {id(layer) for layer in linear_layers(skeleton).values()}
    layer_bytes = [
        sum(
            parameter.numel() * (stored or plain if id(module) in linear else plain)
            for module in modules
            for parameter in module.parameters(recurse=False)
        )
        for modules in layers(skeleton)
    ]
    return Weights(whole.bytes / parts + sum(nlargest(2, layer_bytes)), whole.unpacked)


def _whole_weights(skeleton: nn.Module, quantization: str, dtype: str) -> Weights:
    from adapterzoo.methods.targets import linear_layers

    plain = BYTES_PER_PARAMETER[dtype]
    layers = [sum(p.numel() for p in layer.parameters()) for layer in linear_layers(skeleton).values()]
    parameters = sum(p.numel() for p in skeleton.parameters())
    quantized = quantizations()[quantization].bytes_per_parameter
    if quantized is None:
        return Weights(parameters * plain)
    return Weights(
        sum(layers) * quantized + (parameters - sum(layers)) * plain,
        0.0 if quantization == NONE else max(layers, default=0) * plain,
    )


def _weights(prepared: Prepared, cell: Cell, skeleton: nn.Module) -> Weights:
    """Return how the weights of a cell's base model are stored where they compute."""
    from adapterzoo.methods.targets import linear_layers

    recipe = prepared.recipe
    if prepared.kept is None:
        return weights_of(skeleton, cell.quantization, recipe.model.dtype, recipe.train.weight_parts)
    largest = max((sum(p.numel() for p in layer.parameters()) for layer in linear_layers(skeleton).values()), default=0)
    return Weights(_computing_bytes(prepared.kept), largest * BYTES_PER_PARAMETER[recipe.model.dtype])


def _computing_bytes(kept: Mapping[int | str, int]) -> int:
    """Return the weights that are kept where most of them compute: on one of the GPUs, or in memory without a GPU."""
    gpus = [amount for place, amount in kept.items() if place not in (CPU, DISK)]
    return max(gpus) if gpus else kept.get(CPU, 0)


def needs_of(
    method: Method[Any], options: Any, context: Context, skeleton: nn.Module, weights: Weights, shape: Shape, loss: Any
) -> Needs:
    """Return what training and measuring with a method need.

    Args:
        method: the method, which wraps the skeleton.
        options: the method's options.
        context: facts about the cell, without batches.
        skeleton: the frozen model without weights, in the dtype of its computation; it is changed.
        weights: how its weights are stored.
        shape: the largest batches.
        loss: returns the loss for a model and the arguments of its ``forward``; None for the model's own.

    Raises:
        Exception: the method, the model or the loss depends on the content of tensors.
    """
    import torch

    from adapterzoo.methods.calls import checked_wrap
    from adapterzoo.model.head import put_new_head, train_head
    from adapterzoo.prepare.traced import answers, model_loss, stand_in_loss, training_step

    with torch.device("meta"):
        put_new_head(skeleton, context.seed)
        wrapped = checked_wrap(method, skeleton, options, context)
        train_head(skeleton)
    trained = [parameter for parameter in wrapped.parameters() if parameter.requires_grad]
    # A head of a task reads rows as in training, and answers nothing.
    generates = hasattr(skeleton, "generate") and context.task_type == "CAUSAL_LM"
    masked = not method.prepends_tokens  # such a method makes a longer mask out of the batch's
    measuring = answers(wrapped, shape.rows, shape.positions, masked=masked) if generates else None
    count = partial(training_step, wrapped, shape.batch, checkpointing=shape.checkpointing, masked=masked)
    try:
        step = count(loss or model_loss)
    except NotImplementedError:  # the loss looks at the content of tensors
        step = count(stand_in_loss)
    return Needs(
        weights,
        sum(parameter.numel() for parameter in trained),
        sum(parameter.numel() * parameter.element_size() for parameter in trained),
        step,
        measuring or replace(step, bytes=0.0),
    )


def least_bytes(prepared: Prepared, cell: Cell) -> float:
    """Return the bytes of a cell's weights and optimizer, which it needs in any case."""
    trained = prepared.trainable.get(cell.label, 0) * BYTES_PER_TRAINED_PARAMETER
    if prepared.kept is not None:
        return _computing_bytes(prepared.kept) + trained
    linear, plain = prepared.linear_parameters, BYTES_PER_PARAMETER[prepared.recipe.model.dtype]
    quantized = quantizations()[cell.quantization].bytes_per_parameter or plain
    weights = linear * quantized + (prepared.base_parameters - linear) * plain
    return weights / prepared.recipe.train.weight_parts + trained


def estimates(prepared: Prepared) -> dict[str, Needs | str]:
    """Return label -> what each process of a cell needs, or why that cannot be estimated.

    The longest rows are taken for a batch, and are padded. A task's loss is its own.
    """
    recipe = prepared.recipe
    cells = list({cell.label: cell for cell in prepared.method_cells}.values())
    # Each in its own process, because what a method changes in its libraries must not affect any other.
    attempts = [partial(_estimate, prepared, cell) for cell in cells]
    answers = in_processes(attempts, cores(), time_limit=recipe.train.time_limit)
    return {
        cell.label: shorten(failure_reason(answer), MAX_REASON) if isinstance(answer, Exception) else answer
        for cell, answer in zip(cells, answers, strict=True)
    }


def _shape(prepared: Prepared) -> Shape:
    """Return the largest batches of each process of a run."""
    from adapterzoo.training.trainer import row_lengths

    recipe, encoded = prepared.recipe, prepared.encoded.with_base(None)
    lengths = row_lengths(encoded.training_rows)
    rows = math.ceil(recipe.train.batch_size / recipe.train.devices)  # of each process
    longest = nlargest(rows, range(len(lengths)), key=lengths.__getitem__)
    joinable = encoded.joinable(recipe.evaluate)
    return Shape(
        encoded.collate([encoded.training_rows[row] for row in longest]),
        min(recipe.evaluate.batch_size, len(encoded.test)),
        max(joinable.longest if joinable else encoded.longest_row, encoded.longest_shown),
        recipe.train.gradient_checkpointing,
    )


def _estimate(prepared: Prepared, cell: MethodCell) -> Needs:
    import torch

    from adapterzoo.model import loading
    from adapterzoo.model.config import load_config
    from adapterzoo.model.skeleton import skeleton as make_skeleton

    recipe, encoded = prepared.recipe, prepared.encoded.with_base(None)
    config = load_config(recipe.model, prepared.location)
    skeleton: Any = make_skeleton(recipe.model, config, encoded.form)
    skeleton.to(getattr(torch, recipe.model.dtype)).requires_grad_(False)
    if (attention := loading.attention(recipe.model, recipe.data.max_length)) is not None:
        skeleton.set_attn_implementation(attention)
    method = registry()[cell.method]
    return needs_of(
        method,
        method.options(**cell.options),
        replace(prepared.context(cell), batches=tuple),
        skeleton,
        _weights(prepared, cell, skeleton),
        _shape(prepared),
        None if encoded.trainer_computes_loss else encoded.loss,
    )
