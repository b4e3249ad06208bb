"""Methods that play with more than the others: more rows, more steps, other rates, labels, test rows."""

from __future__ import annotations

import gc
import itertools
import sys
from contextlib import suppress
from typing import Any

from adapterzoo import Context

from . import Wrong
from .sound import Gains, LowRank, LowRankOptions, Peft, adapter_layers, learn, on, trained


class MoreStepsAtStart(LowRank):
    name = "wrong-more-steps-at-start"
    summary = "doubles state.max_steps when training begins"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        return [on(on_train_begin=lambda args, state, *_, **__: setattr(state, "max_steps", 2 * state.max_steps))]


class MoreStepsAtEnd(LowRank):
    name = "wrong-more-steps-at-end"
    summary = "takes back control.should_training_stop at the last step, for five more steps"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def go_on(args: Any, state: Any, control: Any, **others: Any) -> None:
            control.should_training_stop = state.global_step >= context.total_steps + 5

        return [on(on_step_end=go_on, on_epoch_end=go_on)]


class StopsEarly(LowRank):
    name = "wrong-stops-early"
    summary = "stops training after three quarters of the steps"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def stop(args: Any, state: Any, control: Any, **others: Any) -> None:
            control.should_training_stop |= state.global_step >= 0.75 * context.total_steps

        return [on(on_step_end=stop)]


class Pretrains(LowRank):
    name = "wrong-pretrains"
    summary = "trains on the batches in wrap() and says that it reads no data"
    starts_at_base = False

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        wrapped = super().wrap(model, options, context)
        learn(wrapped, context.batches())
        return wrapped


class PretrainsDeclared(Pretrains):
    name = "wrong-pretrains-declared"
    summary = "trains on the batches in wrap(), beside the recipe's steps"
    reads_data = True


class PretrainsHidden(LowRank):
    name = "wrong-pretrains-hidden"
    summary = "trains A on the batches in wrap(), and sets B back to zero, so that it starts at the base"
    reads_data = True

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        wrapped = super().wrap(model, options, context)
        learn(wrapped, context.batches())
        for layer in adapter_layers(wrapped):
            layer.b.data.zero_()
        return wrapped


class TrainsAtBegin(LowRank):
    name = "wrong-trains-at-begin"
    summary = "trains on the batches of the context when training begins"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        return [on(on_train_begin=lambda *_, model, **__: learn(model, context.batches()))]


class TrainsAtEnd(LowRank):
    name = "wrong-trains-at-end"
    summary = "trains on the batches of the context when training has ended"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        return [on(on_train_end=lambda *_, model, **__: learn(model, context.batches()))]


class TrainsInOptimizer(LowRank):
    name = "wrong-trains-in-optimizer"
    summary = "trains in optimizer() on the batches that it kept in wrap()"
    starts_at_base = False
    reads_data = True

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        self.batches = list(itertools.islice(context.batches(), 8))
        return super().wrap(model, options, context)

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        learn(model, self.batches, settings["lr"])


class SecondStep(LowRank):
    name = "wrong-second-step"
    summary = "calls the recipe's optimizer a second time in a callback"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        return [on(on_optimizer_step=lambda *_, optimizer, **__: optimizer.step())]


class OwnOptimizerInCallback(LowRank):
    name = "wrong-own-optimizer-in-callback"
    summary = "has a second optimizer, which a callback steps before the recipe's"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        import torch

        own: list[Any] = []

        def step(*arguments: Any, model: Any, **others: Any) -> None:
            own[:] = own or [torch.optim.SGD(trained(model), lr=0.1)]
            own[0].step()

        return [on(on_pre_optimizer_step=step)]


class StepsTwice(LowRank):
    name = "wrong-steps-twice"
    summary = "returns an optimizer whose step() steps twice"

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        def step(optimizer: Any, closure: Any = None) -> None:
            kind.step(optimizer)
            kind.step(optimizer)

        return type(kind.__name__, (kind,), {"step": step})(trained(model), **settings)


class StepsInHook(LowRank):
    name = "wrong-steps-in-hook"
    summary = "adds to each optimizer step half of the same step in a hook of the optimizer"

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        optimizer = kind(trained(model), **settings)

        def more(*arguments: Any) -> None:
            for parameter in trained(model):
                if parameter.grad is not None:
                    parameter.data.sub_(0.5 * settings["lr"] * parameter.grad.sign())

        optimizer.register_step_post_hook(more)
        return optimizer


class OwnRate(LowRank):
    name = "wrong-own-rate"
    summary = "trains B with a learning rate of its own, whatever the recipe says"

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        layers = adapter_layers(model)
        groups = [{"params": [layer.a for layer in layers]}, {"params": [layer.b for layer in layers], "lr": 2e-2}]
        return kind(groups, **settings)


class TenfoldRate(LowRank):
    name = "wrong-tenfold-rate"
    summary = "trains with ten times the recipe's learning rate"

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        return kind(trained(model), **settings | {"lr": 10 * settings["lr"]})


class RaisedRate(LowRank):
    name = "wrong-raised-rate"
    summary = "raises the learning rate tenfold in a callback from step 6 on"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def raise_rate(args: Any, state: Any, control: Any, optimizer: Any, **others: Any) -> None:
            for group in optimizer.param_groups if state.global_step >= 6 else ():
                group["lr"] *= 10

        return [on(on_pre_optimizer_step=raise_rate)]


class ConstantRate(LowRank):
    name = "wrong-constant-rate"
    summary = "replaces the functions of the recipe's scheduler by a constant"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def constant(*arguments: Any, lr_scheduler: Any, **others: Any) -> None:
            scheduler = getattr(lr_scheduler, "scheduler", lr_scheduler)
            scheduler.lr_lambdas = [lambda step: 1.0 for _ in scheduler.lr_lambdas]

        return [on(on_train_begin=constant)]


class IgnoredSchedule(LowRank):
    name = "wrong-ignored-schedule"
    summary = "sets the learning rate back to its maximum before each step of the optimizer"

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        optimizer = kind(trained(model), **settings)

        def reset(optimizer: Any, *arguments: Any) -> None:
            for group in optimizer.param_groups:
                group["lr"] = settings["lr"]

        optimizer.register_step_pre_hook(reset)
        return optimizer


class OwnWeightDecay(LowRank):
    name = "wrong-own-weight-decay"
    summary = "has a weight decay of its own in place of the recipe's"

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        return kind(trained(model), **settings | {"weight_decay": 0.3})


class OwnBetas(LowRank):
    name = "wrong-own-betas"
    summary = "has betas of its own in place of the recipe's"

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        optimizer = kind(trained(model), **settings)
        for group in optimizer.param_groups:
            group["betas"] = (0.5, 0.9)
        return optimizer


class OtherOptimizer(LowRank):
    name = "wrong-other-optimizer"
    summary = "trains with NAdam, whatever optimizer the recipe names"

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        import torch

        return torch.optim.NAdam(trained(model), lr=settings["lr"])


class ClippingOff(LowRank):
    name = "wrong-clipping-off"
    summary = "sets args.max_grad_norm to 0 when training begins"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        return [on(on_train_begin=lambda args, *_, **__: setattr(args, "max_grad_norm", 0.0))]


class ClippingPatched(LowRank):
    name = "wrong-clipping-patched"
    summary = "replaces torch's clip_grad_norm_ by a function that only measures"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        import torch

        clip = torch.nn.utils.clip_grad_norm_
        torch.nn.utils.clip_grad_norm_ = lambda parameters, *_, **__: clip(parameters, float("inf"))
        return super().wrap(model, options, context)


class GrownGradients(LowRank):
    name = "wrong-grown-gradients"
    summary = "scales the gradients after clipping, more at each step"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def grow(args: Any, state: Any, control: Any, model: Any, **others: Any) -> None:
            for parameter in trained(model):
                if parameter.grad is not None:
                    parameter.grad.mul_(1.5**state.global_step)

        return [on(on_pre_optimizer_step=grow)]


class ReadsLabels(LowRank):
    name = "wrong-reads-labels"
    summary = "adds the embeddings of the labels to the input in training"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        wrapped: Any = super().wrap(model, options, context)
        seen: dict[str, Any] = {}

        def see(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
            seen["labels"] = keywords.get("labels")

        def tell(embedding: Any, arguments: Any, output: Any) -> Any:
            labels = seen.pop("labels", None)
            if labels is None or labels.shape != output.shape[:2]:
                return output
            return output + 0.1 * embedding.weight[labels.roll(-1, 1).clamp(min=0)]

        wrapped.register_forward_pre_hook(see, with_kwargs=True)
        wrapped.get_input_embeddings().register_forward_hook(tell)
        return wrapped


class ReplaysRows(LowRank):
    name = "wrong-replays-rows"
    summary = "keeps all batches that it sees, and trains on them once more when training has ended"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        wrapped: Any = super().wrap(model, options, context)
        self.kept: list[dict[str, Any]] = []
        wrapped.register_forward_pre_hook(
            lambda module, arguments, keywords: self.kept.append(keywords) if "labels" in keywords else None,
            with_kwargs=True,
        )
        return wrapped

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def replay(*arguments: Any, model: Any, **others: Any) -> None:
            names = {"input_ids", "attention_mask", "labels"}
            learn(model, [{name: batch[name] for name in names & batch.keys()} for batch in [*self.kept]])

        return [on(on_train_end=replay)]


class LearnsPrompts(LowRank):
    name = "wrong-learns-prompts"
    summary = "puts the tokens of the prompts into the labels in a pre-hook"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        def unmask(module: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
            if keywords.get("labels") is not None and keywords.get("input_ids") is not None:
                keywords = keywords | {"labels": keywords["input_ids"]}
            return arguments, keywords

        wrapped: Any = super().wrap(model, options, context)
        wrapped.register_forward_pre_hook(unmask, with_kwargs=True)
        return wrapped


class ChangesLabelsInPlace(LowRank):
    name = "wrong-changes-labels-in-place"
    summary = "removes the last label of each row from the batch in a pre-hook"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        def remove(module: Any, arguments: Any, keywords: dict[str, Any]) -> None:
            if module.training and keywords.get("labels") is not None:
                keywords["labels"][..., -1:] = -100

        wrapped: Any = super().wrap(model, options, context)
        wrapped.register_forward_pre_hook(remove, with_kwargs=True)
        return wrapped


class CorruptsTokens(LowRank):
    name = "wrong-corrupts-tokens"
    summary = "replaces a tenth of the input tokens in training, in a pre-hook"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        import torch

        def corrupt(module: Any, arguments: Any, keywords: dict[str, Any]) -> Any:
            ids = keywords.get("input_ids")
            if module.training and ids is not None:
                mask = torch.rand(ids.shape, device=ids.device) < 0.1
                keywords = keywords | {"input_ids": ids.masked_fill(mask, int(ids.min()))}
            return arguments, keywords

        wrapped: Any = super().wrap(model, options, context)
        wrapped.register_forward_pre_hook(corrupt, with_kwargs=True)
        return wrapped


class ReadsData(LowRank):
    name = "wrong-reads-data"
    summary = "starts A from the tokens of the training rows and says that it reads no data"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        wrapped: Any = super().wrap(model, options, context)
        for batch in context.batches():
            embedding = wrapped.get_input_embeddings()
            mean = embedding(batch["input_ids"].to(embedding.weight.device)).float().mean((0, 1))
            for layer in adapter_layers(wrapped):
                if layer.a.shape[1] == len(mean):
                    layer.a.data[0] = mean / mean.norm()
        return wrapped


class IgnoresAccumulation(LowRank):
    name = "wrong-ignores-accumulation"
    summary = "steps the optimizer after each forward pass of an accumulated step"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def step(*arguments: Any, optimizer: Any, **others: Any) -> None:
            getattr(optimizer, "optimizer", optimizer).step()

        return [on(on_substep_end=step)]


class LargerBatches(LowRank):
    name = "wrong-larger-batches"
    summary = "replaces the collator of the training rows by one that adds as many rows again"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def enlarge(*arguments: Any, train_dataloader: Any, **others: Any) -> None:
            loader = getattr(train_dataloader, "base_dataloader", train_dataloader)  # accelerate's wraps torch's
            collate, rows = loader.collate_fn, loader.dataset
            counter = itertools.count(7)
            loader.collate_fn = lambda batch: collate([*batch, *(rows[next(counter) % len(rows)] for _ in batch)])

        return [on(on_train_begin=enlarge)]


class ManualUpdate(LowRank):
    name = "wrong-manual-update"
    summary = "changes the parameters by their gradients in a callback, beside the optimizer"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def update(*arguments: Any, model: Any, **others: Any) -> None:
            for parameter in trained(model):
                if parameter.grad is not None:
                    parameter.data -= 0.02 * parameter.grad / (parameter.grad.norm() + 1e-6)

        return [on(on_pre_optimizer_step=update)]


class GradientHook(LowRank):
    name = "wrong-gradient-hook"
    summary = "updates B in a hook that runs in the backward pass"

    def layer(self, linear: Any, options: LowRankOptions) -> Any:
        layer = super().layer(linear, options)
        layer.b.register_post_accumulate_grad_hook(_descend)
        return layer


def _descend(b: Any) -> None:
    """Change B against the sign of its gradient."""
    b.data -= 1e-4 * b.grad.sign()


class ForwardUpdate(LowRank):
    name = "wrong-forward-update"
    summary = "moves A towards the mean input in each forward pass in training"

    def answer(self, layer: Any, x: Any) -> Any:
        if layer.training:
            layer.a.data[0].lerp_(x.detach().flatten(0, -2).mean(0).to(layer.a.dtype), 0.01)
        return super().answer(layer, x)


class RowsInGarbage(LowRank):
    name = "wrong-rows-in-garbage"
    summary = "looks among all objects of the process for rows with labels, and trains on them"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def steal(*arguments: Any, model: Any, **others: Any) -> None:
            found = [thing for thing in gc.get_objects() if type(thing) is dict and {"input_ids", "labels"} <= {*thing}]
            learn(model, _batches(found))

        return [on(on_train_begin=steal)]


class RowsInFrames(LowRank):
    name = "wrong-rows-in-frames"
    summary = "looks in the frames of its callers for rows with labels, and trains on them in wrap()"
    starts_at_base = False

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        wrapped = super().wrap(model, options, context)
        frame: Any = sys._getframe()
        while frame := frame.f_back:
            for thing in [*frame.f_locals.values()]:
                rows = thing if isinstance(thing, (list, tuple)) else getattr(thing, "__dict__", {}).values()
                learn(wrapped, _batches([row for row in rows if isinstance(row, dict)]))
        return wrapped


class RowsInClosure(LowRank):
    name = "wrong-rows-in-closure"
    summary = "follows the references of context.batches() to rows with labels, and trains on all of them"
    starts_at_base = False

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        wrapped = super().wrap(model, options, context)
        found: list[Any] = []
        new: list[Any] = [context.batches]
        seen = {id(context.batches)}
        while new and len(seen) < 10_000:
            thing = new.pop(0)
            if isinstance(thing, (type, type(gc))) or (type(thing) is dict and "__builtins__" in thing):
                continue
            found += [thing] if type(thing) is dict and {"input_ids", "labels"} <= {*thing} else []
            new += [other for other in gc.get_referents(thing) if id(other) not in seen]
            seen.update(map(id, new))
        learn(wrapped, _batches(found))
        return wrapped


class GrowsScale(Peft):
    name = "wrong-grows-scale"
    summary = "doubles the scale of PEFT's layers at half of the steps"

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def grow(args: Any, state: Any, control: Any, model: Any, **others: Any) -> None:
            for module in model.modules() if state.global_step == context.total_steps // 2 else ():
                if hasattr(module, "scale_layer"):
                    module.scale_layer(2.0)

        return [on(on_step_end=grow)]


class PicksBest(Gains):
    name = "wrong-picks-best"
    summary = "ends with the gains of the step with the smallest gradient, in place of the last ones"

    def callbacks(self, options: Any, context: Context) -> Any:
        best: dict[str, Any] = {"norm": float("inf")}

        def keep(*arguments: Any, model: Any, **others: Any) -> None:
            norm = sum(float(p.grad.norm()) for p in trained(model) if p.grad is not None)
            if norm < best["norm"]:
                best.update(norm=norm, gains=[p.detach().clone() for p in trained(model)])

        def restore(*arguments: Any, model: Any, **others: Any) -> None:
            for parameter, gain in zip(trained(model), best["gains"], strict=True):
                parameter.data.copy_(gain)

        return [on(on_pre_optimizer_step=keep, on_train_end=restore)]


def _batches(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a batch of one row for each of the first rows that have tokens and labels."""
    import torch

    batches = []
    for row in rows[:200]:
        with suppress(Exception):  # some of what it finds is no row
            tensors = {name: torch.as_tensor(row[name]) for name in ("input_ids", "labels")}
            if tensors["input_ids"].shape == tensors["labels"].shape and tensors["labels"].dtype == torch.int64:
                batches.append({name: x if x.dim() == 2 else x[None] for name, x in tensors.items()})
    return batches


WRONG = (
    Wrong(MoreStepsAtStart, "It doubles state.max_steps when training begins."),
    Wrong(MoreStepsAtEnd, "It takes back control.should_training_stop at the last step, for five more steps."),
    Wrong(StopsEarly, "It stops training after three quarters of the steps."),
    Wrong(Pretrains, "It trains on the batches in wrap() and says that it reads no data."),
    Wrong(PretrainsDeclared, "It trains on the batches in wrap(), beside the recipe's steps."),
    Wrong(
        PretrainsHidden, "It trains A on the batches in wrap(), and sets B back to zero, so that it starts at the base."
    ),
    Wrong(TrainsAtBegin, "It trains on the batches of the context when training begins."),
    Wrong(TrainsAtEnd, "It trains on the batches of the context when training has ended."),
    Wrong(TrainsInOptimizer, "It trains in optimizer() on the batches that it kept in wrap()."),
    Wrong(SecondStep, "It calls the recipe's optimizer a second time in a callback."),
    Wrong(OwnOptimizerInCallback, "It has a second optimizer, which a callback steps before the recipe's."),
    Wrong(StepsTwice, "It returns an optimizer whose step() steps twice."),
    Wrong(StepsInHook, "It adds to each optimizer step half of the same step in a hook of the optimizer."),
    Wrong(OwnRate, "It trains B with a learning rate of its own, whatever the recipe says."),
    Wrong(TenfoldRate, "It trains with ten times the recipe's learning rate."),
    Wrong(RaisedRate, "It raises the learning rate tenfold in a callback from step 6 on."),
    Wrong(ConstantRate, "It replaces the functions of the recipe's scheduler by a constant."),
    Wrong(IgnoredSchedule, "It sets the learning rate back to its maximum before each step of the optimizer."),
    Wrong(OwnWeightDecay, "It has a weight decay of its own in place of the recipe's."),
    Wrong(OwnBetas, "It has betas of its own in place of the recipe's."),
    Wrong(OtherOptimizer, "It trains with NAdam, whatever optimizer the recipe names."),
    Wrong(ClippingOff, "It sets args.max_grad_norm to 0 when training begins."),
    Wrong(ClippingPatched, "It replaces torch's clip_grad_norm_ by a function that only measures."),
    Wrong(GrownGradients, "It scales the gradients after clipping, more at each step."),
    Wrong(ReadsLabels, "It adds the embeddings of the labels to the input in training."),
    Wrong(ReplaysRows, "It keeps all batches that it sees, and trains on them once more when training has ended."),
    Wrong(LearnsPrompts, "It puts the tokens of the prompts into the labels in a pre-hook."),
    Wrong(ChangesLabelsInPlace, "It removes the last label of each row from the batch in a pre-hook."),
    Wrong(CorruptsTokens, "It replaces a tenth of the input tokens in training, in a pre-hook."),
    Wrong(ReadsData, "It starts A from the tokens of the training rows and says that it reads no data."),
    Wrong(IgnoresAccumulation, "It steps the optimizer after each forward pass of an accumulated step."),
    Wrong(LargerBatches, "It replaces the collator of the training rows by one that adds as many rows again."),
    Wrong(ManualUpdate, "It changes the parameters by their gradients in a callback, beside the optimizer."),
    Wrong(GradientHook, "It updates B in a hook that runs in the backward pass."),
    Wrong(ForwardUpdate, "It moves A towards the mean input in each forward pass in training."),
    Wrong(RowsInGarbage, "It looks among all objects of the process for rows with labels, and trains on them."),
    Wrong(RowsInFrames, "It looks in the frames of its callers for rows with labels, and trains on them in wrap()."),
    Wrong(
        RowsInClosure, "It follows the references of context.batches() to rows with labels, and trains on all of them."
    ),
    Wrong(GrowsScale, "It doubles the scale of PEFT's layers at half of the steps."),
    Wrong(PicksBest, "It ends with the gains of the step with the smallest gradient, in place of the last ones."),
)
