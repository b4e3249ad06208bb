"""Methods as a careless author writes them."""

from __future__ import annotations

import json
import pickle
import time
from pathlib import Path
from typing import Any

from adapterzoo import Context

from . import Wrong
from .sound import Gains, LowRank, LowRankOptions, Peft, adapter_layers, on

WEIGHTS = "adapter_model.safetensors"


class IgnoresMask(LowRank):
    name = "wrong-ignores-mask"
    summary = "ignores the attention mask, so that tokens see the padding"

    def _put_layers(self, model: Any, options: LowRankOptions) -> Any:
        wrapped: Any = super()._put_layers(model, options)
        wrapped.register_forward_pre_hook(
            lambda module, arguments, keywords: (arguments, {**keywords, "attention_mask": None}), with_kwargs=True
        )
        return wrapped


class ForgetsAlpha(LowRank):
    name = "wrong-forgets-alpha"
    summary = "load() forgets the scale"

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        loaded = super().load(model, folder, options, context)
        for layer in adapter_layers(loaded):
            layer.scale = 1.0
        return loaded


class SavesEarly(LowRank):
    name = "wrong-saves-early"
    summary = "saves the weights from before the last step"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def keep(*arguments: Any, model: Any, **others: Any) -> None:
            for layer in adapter_layers(model):
                layer.before = layer.b.detach().clone()

        return [on(on_pre_optimizer_step=keep)]

    def save(self, model: Any, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        super().save(model, folder)
        tensors = load_file(folder / WEIGHTS)
        for name in model.adapter_layers:
            tensors[f"{name}.b"] = getattr(model.get_submodule(name), "before", tensors[f"{name}.b"])
        save_file(tensors, folder / WEIGHTS)


class SavesAverage(LowRank):
    name = "wrong-saves-average"
    summary = "saves an average of the weights of all steps, which the trained model does not have"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def average(*arguments: Any, model: Any, **others: Any) -> None:
            for layer in adapter_layers(model):
                layer.average = layer.b.detach().clone().lerp_(getattr(layer, "average", layer.b.detach()), 0.5)

        return [on(on_step_end=average)]

    def save(self, model: Any, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        super().save(model, folder)
        averages = {f"{name}.b": getattr(model.get_submodule(name), "average", None) for name in model.adapter_layers}
        kept = {name: average for name, average in averages.items() if average is not None}
        save_file(load_file(folder / WEIGHTS) | kept, folder / WEIGHTS)


class LowPrecision(LowRank):
    name = "wrong-low-precision"
    summary = "trains in bfloat16"

    def layer(self, linear: Any, options: LowRankOptions) -> Any:
        layer = super().layer(linear, options)
        layer.a.data, layer.b.data = layer.a.data.bfloat16(), layer.b.data.bfloat16()
        return layer


class LoadsNothing(LowRank):
    name = "wrong-loads-nothing"
    summary = "load() returns the base unchanged"

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        return model


class LoadsOtherNames(LowRank):
    name = "wrong-loads-other-names"
    summary = "load() looks for the weights under other names, and does not complain"

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        from safetensors.torch import load_file

        loaded = self._put_layers(model, options)
        loaded.load_state_dict({f"module.{n}": t for n, t in load_file(folder / WEIGHTS).items()}, strict=False)
        return loaded


class UnusedAdapter(LowRank):
    name = "wrong-unused-adapter"
    summary = "answers like the base, because the adapter's output is multiplied by zero"

    def delta(self, layer: Any, x: Any) -> Any:
        return super().delta(layer, x) * 0


class UnusedA(LowRank):
    name = "wrong-unused-a"
    summary = "A gets no gradient, because the input of B is detached"

    def delta(self, layer: Any, x: Any) -> Any:
        return (layer.dropout(x.to(layer.a.dtype)) @ layer.a.T).detach() @ layer.b.T * layer.scale


class NoisyAnswers(LowRank):
    name = "wrong-noisy-answers"
    summary = "adds noise to its input in answers too"
    mergeable_into = ()

    def delta(self, layer: Any, x: Any) -> Any:
        import torch

        return super().delta(layer, x + 0.05 * torch.randn_like(x))


class ForgetsToFreeze(LowRank):
    name = "wrong-forgets-to-freeze"
    summary = "trains the base model too, and saves only the adapter"
    quantizations = ("none",)

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        return super().wrap(model, options, context).requires_grad_(True)

    def save(self, model: Any, folder: Path) -> None:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name.endswith((".a", ".b")))
        super().save(model, folder)


class DropsBias(LowRank):
    name = "wrong-drops-bias"
    summary = "leaves out the bias of the linear layer"
    starts_at_base = False

    def answer(self, layer: Any, x: Any) -> Any:
        output = super().answer(layer, x)
        return output if layer.base.bias is None else output - layer.base.bias


class MixesRows(LowRank):
    name = "wrong-mixes-rows"
    summary = "adds the mean update of all rows of the batch to each row"
    mergeable_into = ()

    def delta(self, layer: Any, x: Any) -> Any:
        return super().delta(layer, x).mean(0, keepdim=True).expand(*x.shape[:-1], -1)


class FirstRowsLength(LowRank):
    name = "wrong-first-rows-length"
    summary = "adapts as many tokens of each row as the first row has"
    mergeable_into = ()

    def _put_layers(self, model: Any, options: LowRankOptions) -> Any:
        def look(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
            mask = keywords.get("attention_mask")
            for layer in adapter_layers(module):
                layer.length = int(mask[0].sum()) if mask is not None and mask.dim() == 2 else None

        wrapped: Any = super()._put_layers(model, options)
        wrapped.register_forward_pre_hook(look, with_kwargs=True)
        return wrapped

    def delta(self, layer: Any, x: Any) -> Any:
        delta = super().delta(layer, x)
        length = getattr(layer, "length", None)
        if delta.dim() == 3 and length is not None and delta.shape[1] > length:
            delta[:, length:] *= 0
        return delta


class SeesNextToken(LowRank):
    name = "wrong-sees-next-token"
    summary = "adds the update of the next token to each token"
    mergeable_into = ()

    def delta(self, layer: Any, x: Any) -> Any:
        delta = super().delta(layer, x)
        return delta + delta.roll(-1, -2)


class SeesPreviousToken(LowRank):
    name = "wrong-sees-previous-token"
    summary = "says that it treats each token alone, and adds the update of the previous token"
    mergeable_into = ()
    token_wise = True

    def delta(self, layer: Any, x: Any) -> Any:
        delta = super().delta(layer, x)
        return delta + delta.roll(1, -2)


class StatisticsOfBatch(LowRank):
    name = "wrong-statistics-of-batch"
    summary = "scales its update by the standard deviation of the whole batch"
    mergeable_into = ()

    def delta(self, layer: Any, x: Any) -> Any:
        return super().delta(layer, x / (x.std() + 1e-3))


class StartsElsewhere(LowRank):
    name = "wrong-starts-elsewhere"
    summary = "starts with a random B, so that the base's answers are lost"

    def layer(self, linear: Any, options: LowRankOptions) -> Any:
        layer = super().layer(linear, options)
        layer.b.data.normal_(std=0.05)
        return layer


class WrongDtype(LowRank):
    name = "wrong-wrong-dtype"
    summary = "returns float32, whatever the dtype of its input"

    def answer(self, layer: Any, x: Any) -> Any:
        return super().answer(layer, x).float()


class UnwritableFindings(LowRank):
    name = "wrong-unwritable-findings"
    summary = "has findings that JSON cannot hold"

    def findings(self, model: Any) -> dict[str, Any]:
        return {"layers": {*model.adapter_layers}, "norm": adapter_layers(model)[0].b.detach().norm()}


class NotFiniteFindings(LowRank):
    name = "wrong-not-finite-findings"
    summary = "has findings that are not a number"

    def findings(self, model: Any) -> dict[str, Any]:
        return {"sharpness": float("nan")}


class PickledWeights(LowRank):
    name = "wrong-pickled-weights"
    summary = "keeps what load() reads in a pickle beside the safetensors"

    def save(self, model: Any, folder: Path) -> None:
        super().save(model, folder)
        (folder / "adapter.pkl").write_bytes(pickle.dumps([layer.b.detach() for layer in adapter_layers(model)]))

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        loaded = super().load(model, folder, options, context)
        for layer, b in zip(adapter_layers(loaded), pickle.loads((folder / "adapter.pkl").read_bytes()), strict=True):
            layer.b.data.copy_(b)
        return loaded


class SavesBase(LowRank):
    name = "wrong-saves-base"
    summary = "saves the whole base model beside the adapter"

    def save(self, model: Any, folder: Path) -> None:
        from safetensors.torch import save_file

        super().save(model, folder)
        save_file({name: t.clone() for name, t in model.state_dict().items()}, folder / "base.safetensors")


class SaveHangs(LowRank):
    name = "wrong-save-hangs"
    summary = "save() takes a day"

    def save(self, model: Any, folder: Path) -> None:
        for _ in range(24 * 60 * 60):
            time.sleep(1)
        super().save(model, folder)


class UndeclaredPissa(Peft):
    name = "wrong-undeclared-pissa"
    summary = "takes the adapter out of the base's weights, and does not declare that it changes them"
    quantizations = ("none",)

    def peft_config(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        config = super().peft_config(model, options, context)
        config.init_lora_weights = "pissa"
        return config


class SharedGain(Gains):
    name = "wrong-shared-gain"
    summary = "all layers with equal outputs share one gain in training, and load() fills only one of them"

    def put(self, model: Any, target_modules: str | list[str]) -> Any:
        wrapped = super().put(model, target_modules)
        gains: dict[int, Any] = {}
        for name in wrapped.gained:
            layer = wrapped.get_submodule(name)
            layer.gain = gains.setdefault(len(layer.gain), layer.gain)
        return wrapped

    def save(self, model: Any, folder: Path) -> None:
        gains = {len(layer.gain): layer for layer in map(model.get_submodule, model.gained)}
        gained, model.gained = (
            model.gained,
            [name for name in model.gained if model.get_submodule(name) in gains.values()],
        )
        super().save(model, folder)
        model.gained = gained

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        from safetensors.torch import load_file

        loaded = super().put(model, json.loads((folder / "targets.json").read_text()))
        for name, gain in load_file(folder / WEIGHTS).items():
            layer = loaded.get_submodule(name)
            layer.gain = type(layer.gain)(gain)
        return loaded


class MergesNothing(LowRank):
    name = "wrong-merge-missing"
    summary = "says that it merges, and merge() returns the wrapped model"

    def merge(self, model: Any) -> Any:
        return model


WRONG = (
    Wrong(IgnoresMask, "It ignores the attention mask, so that tokens see the padding."),
    Wrong(ForgetsAlpha, "Its load() forgets the scale."),
    Wrong(SavesEarly, "It saves the weights from before the last step."),
    Wrong(SavesAverage, "It saves an average of the weights of all steps, which the trained model does not have."),
    Wrong(LowPrecision, "It trains in bfloat16."),
    Wrong(LoadsNothing, "Its load() returns the base unchanged."),
    Wrong(LoadsOtherNames, "Its load() looks for the weights under other names, and does not complain."),
    Wrong(UnusedAdapter, "It answers like the base, because the adapter's output is multiplied by zero."),
    Wrong(UnusedA, "A gets no gradient, because the input of B is detached."),
    Wrong(NoisyAnswers, "It adds noise to its input in answers too."),
    Wrong(ForgetsToFreeze, "It trains the base model too, and saves only the adapter."),
    Wrong(DropsBias, "It leaves out the bias of the linear layer."),
    Wrong(MixesRows, "It adds the mean update of all rows of the batch to each row."),
    Wrong(FirstRowsLength, "It adapts as many tokens of each row as the first row has."),
    Wrong(SeesNextToken, "It adds the update of the next token to each token."),
    Wrong(SeesPreviousToken, "It says that it treats each token alone, and adds the update of the previous token."),
    Wrong(StatisticsOfBatch, "It scales its update by the standard deviation of the whole batch."),
    Wrong(StartsElsewhere, "It starts with a random B, so that the base's answers are lost."),
    Wrong(WrongDtype, "It returns float32, whatever the dtype of its input."),
    Wrong(UnwritableFindings, "It has findings that JSON cannot hold."),
    Wrong(NotFiniteFindings, "It has findings that are not a number."),
    Wrong(PickledWeights, "It keeps what load() reads in a pickle beside the safetensors."),
    Wrong(SavesBase, "It saves the whole base model beside the adapter."),
    Wrong(SaveHangs, "Its save() takes a day."),
    Wrong(
        UndeclaredPissa, "It takes the adapter out of the base's weights, and does not declare that it changes them."
    ),
    Wrong(SharedGain, "All layers with equal outputs share one gain in training, and load() fills only one of them."),
    Wrong(MergesNothing, "It says that it merges, and merge() returns the wrapped model."),
)
