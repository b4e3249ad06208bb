"""Methods whose merged model answers differently, or does so once it is saved."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from adapterzoo import Context

from . import Wrong
from .sound import Gains, LowRank, LowRankOptions, Peft, adapter_layers, blocks, on, set_layer


class BlockHooks(LowRank):
    name = "wrong-block-hooks"
    summary = "adds a trained vector in forward hooks of blocks, which merging leaves as hooks"

    def _put_layers(self, model: Any, options: LowRankOptions) -> Any:
        import torch

        wrapped: Any = super()._put_layers(model, options)
        for block in blocks(wrapped):
            block.shift = torch.nn.Parameter(torch.zeros(wrapped.config.hidden_size))
            block.register_forward_hook(self.shifted)
        return wrapped

    def shifted(self, block: Any, arguments: Any, output: Any) -> Any:
        if isinstance(output, tuple):
            return (output[0] + block.shift.to(output[0].dtype), *output[1:])
        return output + block.shift.to(output.dtype)


class InputHooks(LowRank):
    name = "wrong-input-hooks"
    summary = "scales the inputs of linear layers in pre-hooks, which merging leaves as hooks"

    def layer(self, linear: Any, options: LowRankOptions) -> Any:
        import torch

        layer = super().layer(linear, options)
        gain = layer.gain = torch.nn.Parameter(torch.ones(layer.a.shape[1]))
        linear.register_forward_pre_hook(lambda _, arguments: ((arguments[0] * gain).to(arguments[0].dtype),))
        return layer


class OutputHookOnModel(Gains):
    name = "wrong-output-hook"
    summary = "has a hook on the model that scales the logits by the trained gains, and merging keeps the hook"

    def put(self, model: Any, target_modules: str | list[str]) -> Any:
        wrapped = super().put(model, target_modules)
        gain = wrapped.get_submodule(wrapped.gained[0]).gain

        def scaled(module: Any, arguments: Any, output: Any) -> Any:
            output.logits = output.logits * (1 + gain.mean()).to(output.logits.dtype)
            return output

        wrapped.register_forward_hook(scaled)
        return wrapped


class PlainAttribute(LowRank):
    name = "wrong-plain-attribute"
    summary = "merges into a plain attribute of the linear layers, which no file has"

    def merge(self, model: Any) -> Any:
        for name in model.adapter_layers:
            layer = model.get_submodule(name)
            layer.base.delta = layer.update().detach()
            layer.base.forward = partial(_with_delta, layer.base)
            set_layer(model, name, layer.base)
        return model


def _with_delta(linear: Any, x: Any) -> Any:
    """Return the output of a linear layer, with its plain attribute added to its weight."""
    output = type(linear).forward(linear, x)
    return output + (x.to(linear.delta.dtype) @ linear.delta.T).to(output.dtype)


class HiddenBuffer(LowRank):
    name = "wrong-hidden-buffer"
    summary = "merges into a buffer that is not saved with the model"

    def merge(self, model: Any) -> Any:
        for name in model.adapter_layers:
            layer = model.get_submodule(name)
            layer.base.register_buffer("delta", layer.update().detach(), persistent=False)
            layer.base.register_forward_hook(
                lambda linear, arguments, output: output + (arguments[0] @ linear.delta.T.to(output.dtype))
            )
            set_layer(model, name, layer.base)
        return model


class SameNames(LowRank):
    name = "wrong-same-names"
    summary = "merging leaves wrappers whose state dict has the names of the base's"

    def merge(self, model: Any) -> Any:
        for layer in adapter_layers(model):
            a, b = layer.a.detach(), layer.b.detach()
            del layer.a, layer.b
            layer.a, layer.b = a, b
            layer.register_state_dict_post_hook(_without_base)
        return model


def _without_base(layer: Any, state: dict[str, Any], prefix: str, metadata: Any) -> None:
    """Give the tensors of the base layer the names that they have in the base model."""
    for name in [name for name in state if name.startswith(f"{prefix}base.")]:
        state[name.replace(".base.", ".")] = state.pop(name)


class AlphaInMerge(LowRank):
    name = "wrong-alpha-in-merge"
    summary = "merges with alpha 16, whatever alpha is"

    def change(self, layer: Any) -> Any:
        return layer.b @ layer.a * 16 / layer.options.r


class RankInMerge(LowRank):
    name = "wrong-rank-in-merge"
    summary = "merges with rank 8 in the scale, whatever the rank is"

    def change(self, layer: Any) -> Any:
        return layer.b @ layer.a * layer.options.alpha / 8


class LastBlockMissing(LowRank):
    name = "wrong-last-block-missing"
    summary = "merges all blocks but the last one"

    def merge(self, model: Any) -> Any:
        for layer in blocks(model)[-1].modules():
            if hasattr(layer, "scale") and hasattr(layer, "base"):
                layer.b.data.zero_()
        return super().merge(model)


class WideLayersMissing(LowRank):
    name = "wrong-wide-layers-missing"
    summary = "does not merge layers with more inputs than outputs"

    def change(self, layer: Any) -> Any:
        return super().change(layer) * (layer.a.shape[1] <= layer.b.shape[0])


class TransposedSquares(LowRank):
    name = "wrong-transposed-squares"
    summary = "merges the transposed update into square weights"

    def change(self, layer: Any) -> Any:
        update = super().change(layer)
        return update.T if update.shape[0] == update.shape[1] else update


class BiasForgotten(Gains):
    name = "wrong-bias-forgotten"
    summary = "merges gains into the weight and not into the bias"

    def merge_layer(self, linear: Any, factors: Any) -> None:
        bias, linear.bias = linear.bias, None
        super().merge_layer(linear, factors)
        linear.bias = bias


class BiasLost(LowRank):
    name = "wrong-bias-lost"
    summary = "merging removes the biases"

    def merge(self, model: Any) -> Any:
        for layer in adapter_layers(model):
            layer.base.bias = None
        return super().merge(model)


class MergedTwice(LowRank):
    name = "wrong-merged-twice"
    summary = "merges the update twice"

    def merge(self, model: Any) -> Any:
        layers = {name: model.get_submodule(name) for name in model.adapter_layers}
        merged = super().merge(model)
        for name, layer in layers.items():
            set_layer(merged, name, layer)
        return super().merge(merged)


class NothingMerged(Peft):
    name = "wrong-nothing-merged"
    summary = "merging removes the adapter without adding it"

    def merge(self, model: Any) -> Any:
        return model.unload()


class WrappersLeft(Peft):
    name = "wrong-wrappers-left"
    summary = "merging leaves PEFT's layers in the model, so that its weights have other names"

    def merge(self, model: Any) -> Any:
        model.merge_adapter()
        return model.base_model.model


class RoundedMerge(LowRank):
    name = "wrong-rounded-merge"
    summary = "merging rounds the weights to bfloat16"

    def merge(self, model: Any) -> Any:
        merged = super().merge(model)
        for parameter in merged.parameters():
            parameter.data = parameter.data.bfloat16().to(parameter.dtype)
        return merged


class TiedHead(LowRank):
    name = "wrong-tied-head"
    summary = "merges into the output head, which may share its weight with the input embeddings"

    def _put_layers(self, model: Any, options: LowRankOptions) -> Any:
        wrapped: Any = super()._put_layers(model, options)
        name = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
        set_layer(wrapped, name, self.layer(model.get_submodule(name), options))
        wrapped.adapter_layers.append(name)
        return wrapped


class MergedConfig(LowRank):
    name = "wrong-merged-config"
    summary = "raises the epsilon of the norms in training, which merging does not write to the model's config"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        return [on(on_step_end=lambda *_, model, **__: _set_epsilons(model, 1.5))]

    def save(self, model: Any, folder: Path) -> None:
        super().save(model, folder)
        (folder / "steps.json").write_text(str(getattr(model, "raised", 0)))

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        loaded = super().load(model, folder, options, context)
        for _ in range(int((folder / "steps.json").read_text())):
            _set_epsilons(loaded, 1.5)
        return loaded


def _set_epsilons(model: Any, factor: float) -> None:
    """Multiply the epsilons of a model's norms by a factor, and count that."""
    model.raised = getattr(model, "raised", 0) + 1
    for module in model.modules():
        if hasattr(module, "variance_epsilon"):
            module.variance_epsilon *= factor
        elif hasattr(module, "normalized_shape"):
            module.eps *= factor


WRONG = (
    Wrong(BlockHooks, "It adds a trained vector in forward hooks of blocks, which merging leaves as hooks."),
    Wrong(InputHooks, "It scales the inputs of linear layers in pre-hooks, which merging leaves as hooks."),
    Wrong(
        OutputHookOnModel,
        "It has a hook on the model that scales the logits by the trained gains, and merging keeps the hook.",
    ),
    Wrong(PlainAttribute, "It merges into a plain attribute of the linear layers, which no file has."),
    Wrong(HiddenBuffer, "It merges into a buffer that is not saved with the model."),
    Wrong(SameNames, "Merging leaves wrappers whose state dict has the names of the base's."),
    Wrong(AlphaInMerge, "It merges with alpha 16, whatever alpha is."),
    Wrong(RankInMerge, "It merges with rank 8 in the scale, whatever the rank is."),
    Wrong(LastBlockMissing, "It merges all blocks but the last one."),
    Wrong(WideLayersMissing, "It does not merge layers with more inputs than outputs."),
    Wrong(TransposedSquares, "It merges the transposed update into square weights."),
    Wrong(BiasForgotten, "It merges gains into the weight and not into the bias."),
    Wrong(BiasLost, "Merging removes the biases."),
    Wrong(MergedTwice, "It merges the update twice."),
    Wrong(NothingMerged, "Merging removes the adapter without adding it."),
    Wrong(WrappersLeft, "Merging leaves PEFT's layers in the model, so that its weights have other names."),
    Wrong(RoundedMerge, "Merging rounds the weights to bfloat16."),
    Wrong(TiedHead, "It merges into the output head, which may share its weight with the input embeddings."),
    Wrong(
        MergedConfig,
        "It raises the epsilon of the norms in training, which merging does not write to the model's config.",
    ),
)
