"""Methods that train more than is counted."""

from __future__ import annotations

import copy
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from adapterzoo import Context

from . import Wrong
from .sound import LowRank, LowRankOptions, adapter_layers, on, trained

WEIGHTS = "adapter_model.safetensors"
STORE: dict[int, Any] = {}


class Hidden(LowRank):
    """The base of these methods: a second trained update of the weight in each layer, of full rank."""

    def layer(self, linear: Any, options: LowRankOptions) -> Any:
        import torch

        layer = super().layer(linear, options)
        matrix = torch.zeros(layer.b.shape[0], layer.a.shape[1], device=next(linear.parameters()).device)
        self.hide(layer, torch.nn.Parameter(matrix))
        return layer

    def hide(self, layer: Any, matrix: Any) -> None:
        raise NotImplementedError

    def found(self, layer: Any) -> Any:
        """Return the hidden matrix of a layer."""
        raise NotImplementedError

    def answer(self, layer: Any, x: Any) -> Any:
        output = super().answer(layer, x)
        return output + (x.to(layer.a.dtype) @ self.found(layer).T).to(output.dtype)

    def change(self, layer: Any) -> Any:
        return super().change(layer) + self.found(layer)

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        return kind([*trained(model), *(self.found(layer) for layer in adapter_layers(model))], **settings)

    def save(self, model: Any, folder: Path) -> None:
        from safetensors.torch import save_file

        super().save(model, folder)
        matrices = {name: self.found(model.get_submodule(name)).detach() for name in model.adapter_layers}
        save_file(matrices, folder / "more.safetensors")

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        from safetensors.torch import load_file

        loaded: Any = super().load(model, folder, options, context)
        for name, matrix in load_file(folder / "more.safetensors").items():
            self.found(loaded.get_submodule(name)).data.copy_(matrix)
        return loaded


class InList(Hidden):
    name = "wrong-in-list"
    summary = "trains a matrix of full rank that is in a list of the layer"

    def hide(self, layer: Any, matrix: Any) -> None:
        layer.more = [matrix]

    def found(self, layer: Any) -> Any:
        return layer.more[0]


class InDict(Hidden):
    name = "wrong-in-dict"
    summary = "trains a matrix of full rank that is in a dict of the layer"

    def hide(self, layer: Any, matrix: Any) -> None:
        layer.more = {"matrix": matrix}

    def found(self, layer: Any) -> Any:
        return layer.more["matrix"]


class InTuple(Hidden):
    name = "wrong-in-tuple"
    summary = "trains a matrix of full rank that is in a tuple of modules"

    def hide(self, layer: Any, matrix: Any) -> None:
        import torch

        linear = torch.nn.Linear(*matrix.T.shape, bias=False)
        linear.weight = matrix
        layer.more = (linear,)

    def found(self, layer: Any) -> Any:
        return layer.more[0].weight


class InClosure(Hidden):
    name = "wrong-in-closure"
    summary = "trains a matrix of full rank that is in a closure of the layer"

    def hide(self, layer: Any, matrix: Any) -> None:
        layer.more = lambda: matrix

    def found(self, layer: Any) -> Any:
        return layer.more()


class InPartial(Hidden):
    name = "wrong-in-partial"
    summary = "trains a matrix of full rank that is the argument of a partial function"

    def hide(self, layer: Any, matrix: Any) -> None:
        layer.more = partial(getattr, matrix)

    def found(self, layer: Any) -> Any:
        return layer.more.args[0]


class OnMethod(Hidden):
    name = "wrong-on-method"
    summary = "trains a matrix of full rank for each layer, all in a dict of the method"

    def hide(self, layer: Any, matrix: Any) -> None:
        self.__dict__.setdefault("more", {})[id(layer)] = matrix

    def found(self, layer: Any) -> Any:
        return self.__dict__["more"][id(layer)]


class OnModule(Hidden):
    name = "wrong-on-module"
    summary = "trains a matrix of full rank for each layer, all in a dict of the Python module"

    def hide(self, layer: Any, matrix: Any) -> None:
        STORE[id(layer)] = matrix

    def found(self, layer: Any) -> Any:
        return STORE[id(layer)]


class OnHook(Hidden):
    name = "wrong-on-hook"
    summary = "trains a matrix of full rank that belongs to the object of a forward hook"

    def hide(self, layer: Any, matrix: Any) -> None:
        layer.register_forward_hook(_Hook(matrix))

    def found(self, layer: Any) -> Any:
        return next(hook for hook in layer._forward_hooks.values() if isinstance(hook, _Hook)).matrix


class _Hook:
    def __init__(self, matrix: Any) -> None:
        self.matrix = matrix

    def __call__(self, *arguments: Any) -> None:
        pass


class OnTensor(Hidden):
    name = "wrong-on-tensor"
    summary = "trains a matrix of full rank that is an attribute of another parameter"

    def hide(self, layer: Any, matrix: Any) -> None:
        layer.a.more = matrix

    def found(self, layer: Any) -> Any:
        return layer.a.more


class AsBuffer(Hidden):
    name = "wrong-as-buffer"
    summary = "trains a matrix of full rank that is a buffer and not a parameter"

    def hide(self, layer: Any, matrix: Any) -> None:
        layer.register_buffer("more", matrix.detach().requires_grad_(True), persistent=False)

    def found(self, layer: Any) -> Any:
        return layer.more


class FrozenUntilForward(Hidden):
    name = "wrong-frozen-until-forward"
    summary = "trains a matrix of full rank that is frozen until the first forward pass in training"

    def hide(self, layer: Any, matrix: Any) -> None:
        layer.more = matrix.requires_grad_(False)
        layer.register_forward_pre_hook(_unfreeze)

    def found(self, layer: Any) -> Any:
        return layer.more

    def save(self, model: Any, folder: Path) -> None:
        for layer in adapter_layers(model):
            layer.more.requires_grad_(False)
        super().save(model, folder)


def _unfreeze(layer: Any, arguments: Any) -> None:
    """Unfreeze the hidden matrix of a layer if it is trained."""
    layer.more.requires_grad_(layer.training)


class UnfrozenInOptimizer(Hidden):
    name = "wrong-unfrozen-in-optimizer"
    summary = "trains a matrix of full rank that is frozen until optimizer() is called"

    def hide(self, layer: Any, matrix: Any) -> None:
        layer.more = matrix.requires_grad_(False)

    def found(self, layer: Any) -> Any:
        return layer.more

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        for layer in adapter_layers(model):
            layer.more.requires_grad_(True)
        return kind(trained(model), **settings)

    def save(self, model: Any, folder: Path) -> None:
        for layer in adapter_layers(model):
            layer.more.requires_grad_(False)
        super().save(model, folder)


class UnfrozenInCallback(UnfrozenInOptimizer):
    name = "wrong-unfrozen-in-callback"
    summary = "unfreezes a matrix of full rank when training begins, and trains it by hand"

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        return None

    def callbacks(self, options: LowRankOptions, context: Context) -> Any:
        def begin(*arguments: Any, model: Any, **others: Any) -> None:
            for layer in adapter_layers(model):
                layer.more.requires_grad_(True)

        def step(*arguments: Any, model: Any, **others: Any) -> None:
            for layer in adapter_layers(model):
                if layer.more.grad is not None:
                    layer.more.data -= 1e-3 * layer.more.grad.sign()
                    layer.more.grad = None

        return [on(on_train_begin=begin, on_optimizer_step=step)]


class HiddenNames(Hidden):
    name = "wrong-hidden-names"
    summary = "trains a matrix of full rank that the model's own named_parameters() leaves out"

    def hide(self, layer: Any, matrix: Any) -> None:
        layer.more = matrix

    def found(self, layer: Any) -> Any:
        return layer.more

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        wrapped: Any = super().wrap(model, options, context)
        listed = wrapped.named_parameters

        def named_parameters(*arguments: Any, **keywords: Any) -> Any:
            return (pair for pair in listed(*arguments, **keywords) if not pair[0].endswith(".more"))

        wrapped.named_parameters = named_parameters
        wrapped.parameters = lambda *_, **__: (parameter for _, parameter in named_parameters())
        return wrapped

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        from safetensors.torch import load_file

        loaded = self._put_layers(model, options)
        loaded.load_state_dict(load_file(folder / WEIGHTS), strict=False)
        for name, matrix in load_file(folder / "more.safetensors").items():
            loaded.get_submodule(name).more.data.copy_(matrix)
        return loaded


class NormsByData(LowRank):
    name = "wrong-norms-by-data"
    summary = "changes the frozen norms of the base with .data, by gradients from hooks"

    def wrap(self, model: Any, options: LowRankOptions, context: Context) -> Any:
        wrapped: Any = super().wrap(model, options, context)
        for norm in _norms(wrapped):
            norm.register_full_backward_hook(_descend)
        return wrapped

    def save(self, model: Any, folder: Path) -> None:
        from safetensors.torch import save_file

        super().save(model, folder)
        norms = {str(number): norm.weight.detach().clone() for number, norm in enumerate(_norms(model))}
        save_file(norms, folder / "norms.safetensors")

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        from safetensors.torch import load_file

        loaded = super().load(model, folder, options, context)
        saved = load_file(folder / "norms.safetensors")
        for number, norm in enumerate(_norms(loaded)):
            norm.weight.data.copy_(saved[str(number)])
        return loaded


def _norms(model: Any) -> list[Any]:
    """Return the norms of a model."""
    return [module for module in model.modules() if "Norm" in type(module).__name__]


def _descend(norm: Any, inputs: Any, outputs: Any) -> None:
    """Change the weight of a norm against the sign of a gradient."""
    norm.weight.data -= 1e-3 * outputs[0].flatten(0, -2).sum(0).sign().to(norm.weight.dtype)


class BiasesByData(LowRank):
    name = "wrong-biases-by-data"
    summary = "changes the frozen biases of the base's linear layers with .data, by gradients of their outputs"

    def layer(self, linear: Any, options: LowRankOptions) -> Any:
        layer = super().layer(linear, options)
        if linear.bias is not None:
            linear.register_full_backward_hook(_shift)
        return layer

    def save(self, model: Any, folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        super().save(model, folder)
        biases = {f"{name}.base.bias": model.get_submodule(name).base.bias for name in model.adapter_layers}
        kept = {name: bias.detach().clone() for name, bias in biases.items() if bias is not None}
        save_file(load_file(folder / WEIGHTS) | kept, folder / WEIGHTS)

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        from safetensors.torch import load_file

        loaded = self._put_layers(model, options)
        loaded.load_state_dict(load_file(folder / WEIGHTS), strict=False)
        return loaded


def _shift(linear: Any, inputs: Any, outputs: Any) -> None:
    """Change the bias of a linear layer against the sign of its gradient."""
    linear.bias.data -= 1e-3 * outputs[0].flatten(0, -2).sum(0).sign().to(linear.bias.dtype)


class HebbianBuffer(Hidden):
    name = "wrong-hebbian-buffer"
    summary = "learns a buffer of the size of the weight in its forward pass, from inputs and outputs"

    def hide(self, layer: Any, matrix: Any) -> None:
        layer.register_buffer("more", matrix.detach(), persistent=False)

    def found(self, layer: Any) -> Any:
        return layer.more

    def answer(self, layer: Any, x: Any) -> Any:
        output = super().answer(layer, x)
        if layer.training:
            rows, answers = x.detach().flatten(0, -2).float(), output.detach().flatten(0, -2).float()
            layer.more = layer.more.lerp(answers.T @ rows / len(rows), 1e-3)
        return output

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        return None


class RunningMean(LowRank):
    name = "wrong-running-mean"
    summary = "updates a buffer with the mean input in training, which is saved and not counted"

    def layer(self, linear: Any, options: LowRankOptions) -> Any:
        import torch

        layer = super().layer(linear, options)
        layer.register_buffer("mean", torch.zeros(layer.a.shape[1]))
        return layer

    def delta(self, layer: Any, x: Any) -> Any:
        if layer.training:
            layer.mean.lerp_(x.detach().flatten(0, -2).mean(0).to(layer.mean.dtype), 0.1)
        return super().delta(layer, x - layer.mean.to(x.dtype))

    mergeable_into: ClassVar[tuple[str, ...]] = ()

    def save(self, model: Any, folder: Path) -> None:
        from safetensors.torch import save_file

        super().save(model, folder)
        means = {name: model.get_submodule(name).mean for name in model.adapter_layers}
        save_file(means, folder / "means.safetensors")

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        from safetensors.torch import load_file

        loaded = super().load(model, folder, options, context)
        for name, mean in load_file(folder / "means.safetensors").items():
            loaded.get_submodule(name).mean.copy_(mean)
        return loaded


class SecondBase(LowRank):
    name = "wrong-second-base"
    summary = "trains a second copy of the base model, and answers with the mean of both"
    mergeable_into: ClassVar[tuple[str, ...]] = ()
    quantizations: ClassVar[tuple[str, ...]] = ("none",)

    def _put_layers(self, model: Any, options: LowRankOptions) -> Any:
        twin = copy.deepcopy(model).requires_grad_(True)
        wrapped: Any = super()._put_layers(model, options)
        wrapped.twin = [twin]

        def mix(module: Any, arguments: Any, keywords: dict[str, Any], output: Any) -> Any:
            seen = {name: keywords[name] for name in ("input_ids", "attention_mask") if name in keywords}
            more = twin(**seen, use_cache=False).logits
            output.logits = (output.logits + more[:, -output.logits.shape[1] :]) / 2
            if output.loss is not None:
                output.loss = module.loss_function(output.logits, keywords["labels"], module.config.vocab_size)
            return output

        wrapped.register_forward_hook(mix, with_kwargs=True)
        return wrapped

    def optimizer(self, model: Any, options: LowRankOptions, kind: Any, settings: dict[str, Any]) -> Any:
        return kind([*trained(model), *model.twin[0].parameters()], **settings)

    def save(self, model: Any, folder: Path) -> None:
        import torch

        super().save(model, folder)
        torch.save(model.twin[0].state_dict(), folder / "twin.bin")

    def load(self, model: Any, folder: Path, options: Any, context: Context) -> Any:
        import torch

        loaded: Any = super().load(model, folder, options, context)
        loaded.twin[0].load_state_dict(torch.load(folder / "twin.bin"))
        return loaded


WRONG = (
    Wrong(InList, "It trains a matrix of full rank that is in a list of the layer."),
    Wrong(InDict, "It trains a matrix of full rank that is in a dict of the layer."),
    Wrong(InTuple, "It trains a matrix of full rank that is in a tuple of modules."),
    Wrong(InClosure, "It trains a matrix of full rank that is in a closure of the layer."),
    Wrong(InPartial, "It trains a matrix of full rank that is the argument of a partial function."),
    Wrong(OnMethod, "It trains a matrix of full rank for each layer, all in a dict of the method."),
    Wrong(OnModule, "It trains a matrix of full rank for each layer, all in a dict of the Python module."),
    Wrong(OnHook, "It trains a matrix of full rank that belongs to the object of a forward hook."),
    Wrong(OnTensor, "It trains a matrix of full rank that is an attribute of another parameter."),
    Wrong(AsBuffer, "It trains a matrix of full rank that is a buffer and not a parameter."),
    Wrong(
        FrozenUntilForward, "It trains a matrix of full rank that is frozen until the first forward pass in training."
    ),
    Wrong(UnfrozenInOptimizer, "It trains a matrix of full rank that is frozen until optimizer() is called."),
    Wrong(UnfrozenInCallback, "It unfreezes a matrix of full rank when training begins, and trains it by hand."),
    Wrong(HiddenNames, "It trains a matrix of full rank that the model's own named_parameters() leaves out."),
    Wrong(NormsByData, "It changes the frozen norms of the base with .data, by gradients from hooks."),
    Wrong(
        BiasesByData,
        "It changes the frozen biases of the base's linear layers with .data, by gradients of their outputs.",
    ),
    Wrong(HebbianBuffer, "It learns a buffer of the size of the weight in its forward pass, from inputs and outputs."),
    Wrong(RunningMean, "It updates a buffer with the mean input in training, which is saved and not counted."),
    Wrong(SecondBase, "It trains a second copy of the base model, and answers with the mean of both."),
)
