"""Compute what an adapter adds to the weight of each layer of its base model, and the rank of that."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.errors import AdapterzooError
from adapterzoo.methods.targets import linear_layers

if TYPE_CHECKING:
    import torch
    from torch import nn

# A share of an update that is smaller than this comes from rounding in float32.
ROUNDING = 1e-8


class NotLoraError(AdapterzooError):
    """Raised if an adapter cannot be written as LoRA. The message says why; its subject, the adapter, is left out."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class Update(NamedTuple):
    """The singular value decomposition of a layer's merged weight minus its weight in the base model."""

    left: torch.Tensor
    """left singular vectors, (out_features, min(out_features, in_features))"""
    values: torch.Tensor
    """singular values, the largest first"""
    right: torch.Tensor
    """right singular vectors, (min(out_features, in_features), in_features)"""

    def kept(self, rank: int) -> float:
        """Return the share of the update, by squares, that its largest singular values hold."""
        squares = self.values.double() ** 2
        return float(squares[:rank].sum() / squares.sum())

    def rank(self, share: float) -> int:
        """Return the smallest rank that keeps a share of the update."""
        import torch

        squares = self.values.double() ** 2
        kept = torch.cumsum(squares, 0) / squares.sum()
        return min(int((kept < share).sum()) + 1, len(self.values))


class Deltas(NamedTuple):
    """The changes that an adapter makes to the weights of linear layers."""

    by_layer: dict[str, torch.Tensor]
    """name of a layer -> what is added to its weight, (out_features, in_features)"""
    transposed: bool
    """whether the layers keep their weights transposed"""
    model_type: str | None
    """type of the model in its configuration"""

    def decomposed(self) -> dict[str, Update]:
        """Return name of a layer -> its update."""
        import torch

        return {name: Update(*torch.linalg.svd(delta, full_matrices=False)) for name, delta in self.by_layer.items()}


def deltas_of(model: nn.Module, merge: Callable[[nn.Module], nn.Module]) -> Deltas:
    """Return what an adapter adds to the weights of a model.

    Args:
        model: the base model without quantization, which is changed.
        merge: puts the adapter on the model and merges it.

    Raises:
        NotLoraError: the adapter changes other weights than those of linear layers, or none.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    with torch.no_grad():
        model.float()  # the rounding of bfloat16 would be an update of full rank
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        layers = {f"{name}.weight": name for name in linear_layers(model)}
        merged: Any = merge(model)
        after = dict(merged.named_parameters())
        changed = {
            name: after[name] - weight for name, weight in before.items() if not torch.equal(after[name], weight)
        }
        transposed = any(isinstance(merged.get_submodule(layers[name]), Conv1D) for name in changed if name in layers)
        if others := sorted(set(changed) - set(layers)):
            what = f"changes {others[0]}" + (f" and {len(others) - 1} more" if len(others) > 1 else "")
            raise NotLoraError(f"{what}, and LoRA changes linear layers only.", "Merge it instead.")
        if not changed:
            raise NotLoraError("changes no weight, so there is nothing to export.")
        model_type = getattr(getattr(merged, "config", None), "model_type", None)
        return Deltas(
            {layers[name]: delta.T if transposed else delta for name, delta in changed.items()}, transposed, model_type
        )


def whole_rank(updates: Mapping[str, Update]) -> int:
    """Return the rank of a LoRA adapter that holds all of the updates, up to rounding."""
    return max(update.rank(1 - ROUNDING) for update in updates.values())
