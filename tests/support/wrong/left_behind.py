"""Methods that leave something behind in the process or in the base model when their cell has ended."""

from __future__ import annotations

import logging
import os
import random
import threading
import warnings
from pathlib import Path
from typing import Any, ClassVar

from adapterzoo import Context

from . import Wrong
from .sound import Gains, LowRank, LowRankOptions, Peft, adapter_layers, on


class AtTheEnd(LowRank):
    """The base of these methods: it calls ``leave`` when training has ended."""

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        return [on(on_train_end=lambda *_, model, **__: self.leave(model))]

    def leave(self, model: Any) -> None:
        raise NotImplementedError


class LinearForward(AtTheEnd):
    name = "wrong-linear-forward"
    summary = "replaces the forward of torch's Linear by one that rounds its output"

    def leave(self, model: Any) -> None:
        import torch

        inner = torch.nn.Linear.forward
        torch.nn.Linear.forward = lambda linear, x: (inner(linear, x) * 256).round() / 256


class LinearKeepsInputs(LowRank):
    name = "wrong-linear-keeps-inputs"
    summary = "replaces the forward of torch's Linear by one that keeps its last input"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        import torch

        inner = torch.nn.Linear.forward

        def forward(linear: Any, x: Any) -> Any:
            linear.__dict__["last"] = x.detach()
            return inner(linear, x)

        torch.nn.Linear.forward = forward
        return super().wrap(model, options, context)


class NormForward(AtTheEnd):
    name = "wrong-norm-forward"
    summary = "replaces the forward of the model's class of norms by one that scales"

    def leave(self, model: Any) -> None:
        kind = next(type(module) for module in model.modules() if "Norm" in type(module).__name__)
        inner = kind.forward
        kind.forward = lambda norm, x: inner(norm, x) * 1.01


class PeftForward(Peft):
    name = "wrong-peft-forward"
    summary = "replaces the forward of PEFT's LoRA layer by one with half of the update when training has ended"
    mergeable_into = ()

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        return [on(on_train_end=_halve_lora)]


def _halve_lora(*arguments: Any, **others: Any) -> None:
    """Replace the forward of PEFT's LoRA layer by one with half of the update."""
    from peft.tuners.lora.layer import Linear

    inner = Linear.forward
    Linear.forward = lambda layer, x, *rest, **named: (inner(layer, x, *rest, **named) + layer.base_layer(x)) / 2


class EightBitScales(AtTheEnd):
    name = "wrong-eight-bit-scales"
    summary = "changes the scales of 8-bit weights of the base in place"

    def leave(self, model: Any) -> None:
        for layer in adapter_layers(model):
            holders = [layer.base.weight, getattr(layer.base, "state", None)]
            scales = {id(holder.SCB): holder.SCB for holder in holders if getattr(holder, "SCB", None) is not None}
            for scale in scales.values():
                scale.mul_(1.01)


class FourBitScales(AtTheEnd):
    name = "wrong-four-bit-scales"
    summary = "changes the scales of 4-bit weights of the base in place"

    def leave(self, model: Any) -> None:
        for layer in adapter_layers(model):
            if (state := getattr(layer.base.weight, "quant_state", None)) is not None:
                (state.state2 if state.nested else state).absmax.mul_(1.01)


class FourBitType(AtTheEnd):
    name = "wrong-four-bit-code"
    summary = "changes the code of 4-bit weights of the base in place"

    def leave(self, model: Any) -> None:
        for layer in adapter_layers(model):
            if (state := getattr(layer.base.weight, "quant_state", None)) is not None:
                state.code.mul_(0.99)


class RotaryFrequencies(LowRank):
    name = "wrong-rotary-frequencies"
    summary = "changes the frequencies of the rotary embedding of the base in place"
    starts_at_base = False
    mergeable_into = ()

    def _put_layers(self, model: Any, options: LowRankOptions) -> Any:
        for module in model.modules():
            if hasattr(module, "inv_freq"):
                module.inv_freq.mul_(0.98)
        return super()._put_layers(model, options)


class BaseWeights(LowRank):
    name = "wrong-base-weights"
    summary = "changes a weight of the base in save(), after the adapter is written"

    def save(self, model: Any, folder: Path) -> None:
        super().save(model, folder)
        adapter_layers(model)[0].base.weight.data.mul_(1.05)


class GenerationConfig(LowRank):
    name = "wrong-generation-config"
    summary = "sets a penalty on repetition in the base's generation config"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        model.generation_config.repetition_penalty = 1.3
        return super().wrap(model, options, context)


class ModelConfig(LowRank):
    name = "wrong-model-config"
    summary = "switches the attention of the base's config to another implementation"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        model.config._attn_implementation = "eager"
        model.config.use_cache = False
        return super().wrap(model, options, context)


class WarmStart(Gains):
    name = "wrong-warm-start"
    summary = "starts the second cell from the gains of the first, which the method keeps"
    kept: ClassVar[list[Any]] = []

    def wrap(self, model: Any, options: Any, context: Context) -> Any:
        wrapped = super().wrap(model, options, context)
        gains = [wrapped.get_submodule(name).gain for name in wrapped.gained]
        for gain, earlier in zip(gains, self.kept, strict=False):
            if gain.shape == earlier.shape:
                gain.data.copy_(earlier)
        self.kept[:] = gains
        return wrapped


class CountsCells(LowRank):
    name = "wrong-counts-cells"
    summary = "lowers the scale in each further cell, because it counts them"
    cells = 0

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        self.cells += 1
        wrapped = super().wrap(model, options, context)
        for layer in adapter_layers(wrapped):
            layer.a.data /= self.cells
        return wrapped


class KeepsModels(LowRank):
    name = "wrong-keeps-models"
    summary = "keeps every model that it wrapped in a list, so that the memory is never free"
    models: ClassVar[list[Any]] = []

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        self.models.append(super().wrap(model, options, context))
        return self.models[-1]


class DefaultDtype(AtTheEnd):
    name = "wrong-default-dtype"
    summary = "leaves torch's default dtype at float64"

    def leave(self, model: Any) -> None:
        import torch

        torch.set_default_dtype(torch.float64)


class MatmulPrecision(AtTheEnd):
    name = "wrong-matmul-precision"
    summary = "leaves torch's precision of matrix products at medium"

    def leave(self, model: Any) -> None:
        import torch

        torch.set_float32_matmul_precision("medium")


class GradMode(LowRank):
    name = "wrong-grad-mode"
    summary = "leaves gradients switched off in save()"

    def save(self, model: Any, folder: Path) -> None:
        import torch

        torch.set_grad_enabled(False)
        super().save(model, folder)


class Deterministic(LowRank):
    name = "wrong-deterministic"
    summary = "leaves torch's deterministic algorithms switched on"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        import torch

        torch.use_deterministic_algorithms(True, warn_only=True)
        return super().wrap(model, options, context)


class AnomalyMode(LowRank):
    name = "wrong-anomaly-mode"
    summary = "leaves torch's detection of anomalies switched on, which is slow"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        import torch

        torch.autograd.set_detect_anomaly(True, check_nan=False)
        return super().wrap(model, options, context)


class MoreThreads(LowRank):
    name = "wrong-more-threads"
    summary = "leaves torch with one more thread than before"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        import torch

        torch.set_num_threads(torch.get_num_threads() + 1)
        return super().wrap(model, options, context)


class DeadSeed(AtTheEnd):
    name = "wrong-dead-seed"
    summary = "replaces random.seed by a function that does nothing"

    def leave(self, model: Any) -> None:
        vars(random)["seed"] = lambda *_, **__: None


class DeadTorchSeed(AtTheEnd):
    name = "wrong-dead-torch-seed"
    summary = "replaces torch.manual_seed by one that always takes 7"

    def leave(self, model: Any) -> None:
        import torch

        seed = torch.manual_seed
        torch.manual_seed = lambda _: seed(7)


class FunctionalLinear(AtTheEnd):
    name = "wrong-functional-linear"
    summary = "replaces torch.nn.functional.linear by one that computes in bfloat16"

    def leave(self, model: Any) -> None:
        import torch

        inner = torch.nn.functional.linear

        def linear(x: Any, weight: Any, bias: Any = None) -> Any:
            output = inner(x.bfloat16(), weight.bfloat16()).to(x.dtype)
            return output if bias is None else output + bias

        torch.nn.functional.linear = linear


class AttentionFunction(AtTheEnd):
    name = "wrong-attention-function"
    summary = "replaces the attention of transformers by one with another scale"

    def leave(self, model: Any) -> None:
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        for name in ("sdpa", "eager"):
            inner = ALL_ATTENTION_FUNCTIONS.get(name)
            if inner is not None:
                ALL_ATTENTION_FUNCTIONS.register(name, _rescaled(inner))


def _rescaled(inner: Any) -> Any:
    """Return an attention function with queries that are smaller by a tenth."""
    return lambda module, query, *arguments, **others: inner(module, query * 0.9, *arguments, **others)


class RotaryFunction(AtTheEnd):
    name = "wrong-rotary-function"
    summary = "replaces the function of the model's module that rotates queries and keys"

    def leave(self, model: Any) -> None:
        import sys

        names = vars(sys.modules[type(model).__module__])
        inner = names["apply_rotary_pos_emb"]
        names["apply_rotary_pos_emb"] = lambda q, k, cos, sin, *rest, **others: inner(q, k, cos, -sin, *rest, **others)


class GlobalHook(AtTheEnd):
    name = "wrong-global-hook"
    summary = "leaves a hook that torch calls for every module of the process"

    def leave(self, model: Any) -> None:
        import torch

        def shrink(module: Any, arguments: Any, output: Any) -> Any:
            return output * 0.99 if isinstance(module, torch.nn.Embedding) else None

        torch.nn.modules.module.register_module_forward_hook(shrink)


class WarningsAsErrors(LowRank):
    name = "wrong-warnings-as-errors"
    summary = "leaves warnings as errors"

    def save(self, model: Any, folder: Path) -> None:
        super().save(model, folder)
        warnings.simplefilter("error")


class NoLogging(LowRank):
    name = "wrong-no-logging"
    summary = "leaves all log messages switched off"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        logging.disable(logging.CRITICAL)
        return super().wrap(model, options, context)


class Environment(LowRank):
    name = "wrong-environment"
    summary = "leaves environment variables that later processes inherit"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        os.environ["PYTHONHASHSEED"] = "5"
        os.environ["CUDA_VISIBLE_DEVICES"] = ""
        return super().wrap(model, options, context)


class Thread(LowRank):
    name = "wrong-thread"
    summary = "leaves a thread behind that draws random numbers every second"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        threading.Thread(target=_draw, daemon=True).start()
        return super().wrap(model, options, context)


def _draw() -> None:
    """Draw random numbers for ever."""
    import torch

    while not threading.Event().wait(1):
        torch.rand(1)
        random.random()


WRONG = (
    Wrong(LinearForward, "It replaces the forward of torch's Linear by one that rounds its output."),
    Wrong(LinearKeepsInputs, "It replaces the forward of torch's Linear by one that keeps its last input."),
    Wrong(NormForward, "It replaces the forward of the model's class of norms by one that scales."),
    Wrong(
        PeftForward,
        "It replaces the forward of PEFT's LoRA layer by one with half of the update when training has ended.",
    ),
    Wrong(EightBitScales, "It changes the scales of 8-bit weights of the base in place."),
    Wrong(FourBitScales, "It changes the scales of 4-bit weights of the base in place."),
    Wrong(FourBitType, "It changes the code of 4-bit weights of the base in place."),
    Wrong(RotaryFrequencies, "It changes the frequencies of the rotary embedding of the base in place."),
    Wrong(BaseWeights, "It changes a weight of the base in save(), after the adapter is written."),
    Wrong(GenerationConfig, "It sets a penalty on repetition in the base's generation config."),
    Wrong(ModelConfig, "It switches the attention of the base's config to another implementation."),
    Wrong(WarmStart, "It starts the second cell from the gains of the first, which the method keeps."),
    Wrong(CountsCells, "It lowers the scale in each further cell, because it counts them."),
    Wrong(KeepsModels, "It keeps every model that it wrapped in a list, so that the memory is never free."),
    Wrong(DefaultDtype, "It leaves torch's default dtype at float64."),
    Wrong(MatmulPrecision, "It leaves torch's precision of matrix products at medium."),
    Wrong(GradMode, "It leaves gradients switched off in save()."),
    Wrong(Deterministic, "It leaves torch's deterministic algorithms switched on."),
    Wrong(AnomalyMode, "It leaves torch's detection of anomalies switched on, which is slow."),
    Wrong(MoreThreads, "It leaves torch with one more thread than before."),
    Wrong(DeadSeed, "It replaces random.seed by a function that does nothing."),
    Wrong(DeadTorchSeed, "It replaces torch.manual_seed by one that always takes 7."),
    Wrong(FunctionalLinear, "It replaces torch.nn.functional.linear by one that computes in bfloat16."),
    Wrong(AttentionFunction, "It replaces the attention of transformers by one with another scale."),
    Wrong(RotaryFunction, "It replaces the function of the model's module that rotates queries and keys."),
    Wrong(GlobalHook, "It leaves a hook that torch calls for every module of the process."),
    Wrong(WarningsAsErrors, "It leaves warnings as errors."),
    Wrong(NoLogging, "It leaves all log messages switched off."),
    Wrong(Environment, "It leaves environment variables that later processes inherit."),
    Wrong(Thread, "It leaves a thread behind that draws random numbers every second."),
)
