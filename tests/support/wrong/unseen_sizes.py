"""Methods that are wrong only for sizes, options or seeds that a quick test may not try."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from adapterzoo import Context
from adapterzoo.methods.targets import targeted

from . import Wrong
from .sound import Gains, LowRank, LowRankOptions, Projected, adapter_layers, blocks, on, trained


class EightRows(LowRank):
    name = "wrong-eight-rows"
    summary = "adapts only the first eight rows of a batch"
    mergeable_into = ()

    def delta(self, layer: Any, x: Any) -> Any:
        delta = super().delta(layer, x)
        if delta.dim() == 3 and len(delta) > 8:
            delta[8:] *= 0
        return delta


class FortyTokens(LowRank):
    name = "wrong-forty-tokens"
    summary = "adapts only the first 40 tokens of a row"
    mergeable_into = ()
    tokens = 40

    def delta(self, layer: Any, x: Any) -> Any:
        import torch

        delta = super().delta(layer, x)
        if delta.dim() == 3 and delta.shape[1] > self.tokens:
            delta = delta * (torch.arange(delta.shape[1], device=x.device) < self.tokens)[:, None]
        return delta


class TwoHundredTokens(FortyTokens):
    name = "wrong-two-hundred-tokens"
    summary = "adapts only the first 200 tokens of a row"
    tokens = 200


class ManyTokensInBatch(LowRank):
    name = "wrong-many-tokens-in-batch"
    summary = "works in chunks of 512 tokens, and loses the rest of a batch that is not a whole number of chunks"
    mergeable_into = ()

    def delta(self, layer: Any, x: Any) -> Any:
        import torch

        delta = super().delta(layer, x)
        flat = delta.flatten(0, -2)
        if len(flat) > 512:
            whole = len(flat) // 512 * 512
            flat = torch.cat([flat[:whole], torch.zeros_like(flat[whole:])])
        return flat.view_as(delta)


class TwelveSteps(LowRank):
    name = "wrong-twelve-steps"
    summary = "stops learning after twelve steps"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def stop(args: Any, state: Any, control: Any, model: Any, **others: Any) -> None:
            for parameter in trained(model) if state.global_step >= 12 else ():
                parameter.grad = None

        return [on(on_pre_optimizer_step=stop)]


class MoreAfterTwelve(LowRank):
    name = "wrong-more-after-twelve"
    summary = "steps twice at each step after the twelfth"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def step(args: Any, state: Any, control: Any, optimizer: Any, **others: Any) -> None:
            if state.global_step >= 12:
                optimizer.step()

        return [on(on_optimizer_step=step)]


class EveryThirteenth(LowRank):
    name = "wrong-every-thirteenth"
    summary = "halves B at every 13th step"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def halve(args: Any, state: Any, control: Any, model: Any, **others: Any) -> None:
            for layer in adapter_layers(model) if state.global_step % 13 == 0 else ():
                layer.b.data /= 2

        return [on(on_step_end=halve)]


class LongTraining(LowRank):
    name = "wrong-long-training"
    summary = "steps twice at each step if training has more than 100 steps"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        if context.total_steps <= 100:
            return []
        return [on(on_optimizer_step=lambda *_, optimizer, **__: optimizer.step())]


class TinyRate(LowRank):
    name = "wrong-tiny-rate"
    summary = "recommends a learning rate of 3e-9, with which it learns nothing"
    learning_rate = 3e-9


class TinyOwnRate(LowRank):
    name = "wrong-tiny-own-rate"
    summary = "trains A with a learning rate of its own of 3e-9"

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        layers = adapter_layers(model)
        groups = [{"params": [layer.b for layer in layers]}, {"params": [layer.a for layer in layers], "lr": 3e-9}]
        return kind(groups, **settings)


class HugeRate(Gains):
    name = "wrong-huge-rate"
    summary = "recommends a learning rate of 300, with which training diverges"
    learning_rate = 300.0


class RoundedAtLoad(LowRank):
    name = "wrong-rounded-at-load"
    summary = "load() rounds the adapter to the dtype of the base, which may be bfloat16"

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        dtype = model.get_input_embeddings().weight.dtype
        loaded = super().load(model, folder, options, context)
        for layer in adapter_layers(loaded):
            layer.a.data, layer.b.data = layer.a.data.to(dtype), layer.b.data.to(dtype)
        return loaded


class RoundedAtSave(LowRank):
    name = "wrong-rounded-at-save"
    summary = "save() rounds the adapter to the dtype of the base, which may be bfloat16"

    def save(self, model: Any, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        super().save(model, folder)
        file, dtype = folder / "adapter_model.safetensors", model.get_input_embeddings().weight.dtype
        save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file)


class SixteenRanks(LowRank):
    name = "wrong-sixteen-ranks"
    summary = "uses only the first 16 ranks"

    def delta(self, layer: Any, x: Any) -> Any:
        return layer.dropout(x.to(layer.a.dtype)) @ layer.a[:16].T @ layer.b[:, :16].T * layer.scale

    def change(self, layer: Any) -> Any:
        return layer.b[:, :16] @ layer.a[:16] * layer.scale


class SixteenInLoad(LowRank):
    name = "wrong-sixteen-in-load"
    summary = "load() takes alpha as 16"

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        loaded = super().load(model, folder, options, context)
        for layer in adapter_layers(loaded):
            layer.scale = 16 / layer.options.r
        return loaded


class IgnoredAlpha(LowRank):
    name = "wrong-ignored-alpha"
    summary = "ignores the option alpha"

    def layer(self, linear: Any, options: LowRankOptions) -> Any:
        return super().layer(linear, options.model_copy(update={"alpha": 16.0}))


class DropoutInAnswers(LowRank):
    name = "wrong-dropout-in-answers"
    summary = "applies dropout in answers too, if the option is not 0"
    mergeable_into = ()

    def delta(self, layer: Any, x: Any) -> Any:
        layer.dropout.train()
        return super().delta(layer, x)


class DropoutInMerge(LowRank):
    name = "wrong-dropout-in-merge"
    summary = "merges too little if the option dropout is not 0"

    def change(self, layer: Any) -> Any:
        return super().change(layer) * (1 - layer.options.dropout)


class ListOfTargets(LowRank):
    name = "wrong-list-of-targets"
    summary = "adapts only the first target if target_modules is a list"

    def _put_layers(self, model: Any, options: LowRankOptions) -> Any:
        targets = options.target_modules
        first = targets[:1] if isinstance(targets, list) else targets
        return super()._put_layers(model, options.model_copy(update={"target_modules": first}))


class PatternOfTargets(LowRank):
    name = "wrong-pattern-of-targets"
    summary = "adapts all layers if target_modules is a pattern"

    def _put_layers(self, model: Any, options: LowRankOptions) -> Any:
        if isinstance(options.target_modules, str) and targeted(model, options.target_modules):
            options = options.model_copy(update={"target_modules": "all-linear"})
        return super()._put_layers(model, options)


class SeedZeroAtLoad(Projected):
    name = "wrong-seed-zero-at-load"
    summary = "draws the frozen A from the recipe's seed, which load() takes as 0"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        import torch

        wrapped: Any = super().wrap(model, options, context)
        for layer in adapter_layers(wrapped) if context.seed else ():
            generator = torch.Generator().manual_seed(context.seed)
            layer.a.copy_(torch.randn(layer.a.shape, generator=generator) / layer.a.shape[1] ** 0.5)
        return wrapped


class OtherSeeds(LowRank):
    name = "wrong-other-seeds"
    summary = "does not start at the base if the seed is not 0"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        wrapped: Any = super().wrap(model, options, context)
        for layer in adapter_layers(wrapped) if context.seed else ():
            layer.b.data.normal_(std=0.05)
        return wrapped


class Checkpointing(LowRank):
    name = "wrong-checkpointing"
    summary = "changes its state in each forward pass, which gradient checkpointing runs twice"

    def delta(self, layer: Any, x: Any) -> Any:
        if layer.training:
            layer.passes = getattr(layer, "passes", 0) + 1
            return super().delta(layer, x) * (0.5 if layer.passes % 2 else 1.5)
        return super().delta(layer, x)


class OwnDropout(LowRank):
    name = "wrong-own-dropout"
    summary = "draws dropout from its own generator, which gradient checkpointing does not set back"

    def delta(self, layer: Any, x: Any) -> Any:
        import torch

        if layer.training:
            layer.generator = getattr(layer, "generator", None) or torch.Generator().manual_seed(0)
            x = x * (torch.rand(x.shape, generator=layer.generator) > 0.1).to(x)
        return super().delta(layer, x)


class Accumulation(LowRank):
    name = "wrong-accumulation"
    summary = "takes only the last of the accumulated gradients of a step"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        return [on(on_substep_end=lambda *_, model, **__: model.zero_grad())]


class OneRow(LowRank):
    name = "wrong-one-row"
    summary = "does not adapt a batch of one row"
    mergeable_into = ()

    def delta(self, layer: Any, x: Any) -> Any:
        return super().delta(layer, x) * float(len(x) != 1)


class OddRows(LowRank):
    name = "wrong-odd-rows"
    summary = "works on both halves of a batch, without the last row of an odd number"
    mergeable_into = ()

    def delta(self, layer: Any, x: Any) -> Any:
        delta = super().delta(layer, x)
        if len(x) > 1 and len(x) % 2:
            delta[-1] *= 0
        return delta


class OneToken(LowRank):
    name = "wrong-one-token"
    summary = "does not adapt a single token, which is what generation with a cache asks for"
    mergeable_into = ()

    def delta(self, layer: Any, x: Any) -> Any:
        return super().delta(layer, x) * float(x.dim() < 3 or x.shape[1] != 1)


class EqualLengths(LowRank):
    name = "wrong-equal-lengths"
    summary = "does not adapt batches without padding of more than one row"
    mergeable_into = ()

    def _put_layers(self, model: Any, options: LowRankOptions) -> Any:
        def look(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
            mask = keywords.get("attention_mask")
            for layer in adapter_layers(module):
                layer.off = mask is not None and mask.dim() == 2 and len(mask) > 1 and bool(mask.all())

        wrapped: Any = super()._put_layers(model, options)
        wrapped.register_forward_pre_hook(look, with_kwargs=True)
        return wrapped

    def delta(self, layer: Any, x: Any) -> Any:
        return super().delta(layer, x) * float(not getattr(layer, "off", False))


class DeepModels(LowRank):
    name = "wrong-deep-models"
    summary = "does not train blocks after the fourth"

    def _put_layers(self, model: Any, options: LowRankOptions) -> Any:
        wrapped = super()._put_layers(model, options)
        for block in blocks(wrapped)[4:]:
            block.requires_grad_(False)
        return wrapped


class WideModels(LowRank):
    name = "wrong-wide-models"
    summary = "merges only the first 512 columns of a weight"

    def change(self, layer: Any) -> Any:
        import torch

        update = super().change(layer)
        return update * (torch.arange(update.shape[1], device=update.device) < 512)


class LoadsSmallRanks(LowRank):
    name = "wrong-loads-small-ranks"
    summary = "load() forgets the last rank if there are more than eight"

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        loaded = super().load(model, folder, options, context)
        if options.r > 8:
            for layer in adapter_layers(loaded):
                layer.b.data[:, -1] = 0
        return loaded


WRONG = (
    Wrong(EightRows, "It adapts only the first eight rows of a batch."),
    Wrong(FortyTokens, "It adapts only the first 40 tokens of a row."),
    Wrong(TwoHundredTokens, "It adapts only the first 200 tokens of a row."),
    Wrong(
        ManyTokensInBatch,
        "It works in chunks of 512 tokens, and loses the rest of a batch that is not a whole number of chunks.",
    ),
    Wrong(TwelveSteps, "It stops learning after twelve steps."),
    Wrong(MoreAfterTwelve, "It steps twice at each step after the twelfth."),
    Wrong(EveryThirteenth, "It halves B at every 13th step."),
    Wrong(LongTraining, "It steps twice at each step if training has more than 100 steps."),
    Wrong(TinyRate, "It recommends a learning rate of 3e-9, with which it learns nothing."),
    Wrong(TinyOwnRate, "It trains A with a learning rate of its own of 3e-9."),
    Wrong(HugeRate, "It recommends a learning rate of 300, with which training diverges."),
    Wrong(RoundedAtLoad, "Its load() rounds the adapter to the dtype of the base, which may be bfloat16."),
    Wrong(RoundedAtSave, "Its save() rounds the adapter to the dtype of the base, which may be bfloat16."),
    Wrong(SixteenRanks, "It uses only the first 16 ranks."),
    Wrong(SixteenInLoad, "Its load() takes alpha as 16."),
    Wrong(IgnoredAlpha, "It ignores the option alpha."),
    Wrong(DropoutInAnswers, "It applies dropout in answers too, if the option is not 0."),
    Wrong(DropoutInMerge, "It merges too little if the option dropout is not 0."),
    Wrong(ListOfTargets, "It adapts only the first target if target_modules is a list."),
    Wrong(PatternOfTargets, "It adapts all layers if target_modules is a pattern."),
    Wrong(SeedZeroAtLoad, "It draws the frozen A from the recipe's seed, which load() takes as 0."),
    Wrong(OtherSeeds, "It does not start at the base if the seed is not 0."),
    Wrong(Checkpointing, "It changes its state in each forward pass, which gradient checkpointing runs twice."),
    Wrong(OwnDropout, "It draws dropout from its own generator, which gradient checkpointing does not set back."),
    Wrong(Accumulation, "It takes only the last of the accumulated gradients of a step."),
    Wrong(OneRow, "It does not adapt a batch of one row."),
    Wrong(OddRows, "It works on both halves of a batch, without the last row of an odd number."),
    Wrong(OneToken, "It does not adapt a single token, which is what generation with a cache asks for."),
    Wrong(EqualLengths, "It does not adapt batches without padding of more than one row."),
    Wrong(DeepModels, "It does not train blocks after the fourth."),
    Wrong(WideModels, "It merges only the first 512 columns of a weight."),
    Wrong(LoadsSmallRanks, "Its load() forgets the last rank if there are more than eight."),
)
