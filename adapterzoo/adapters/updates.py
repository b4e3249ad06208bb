"""Compute what an adapter adds to the weight of each layer of its base model, and the rank of that."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.errors import AdapterzooError
from adapterzoo.methods.targets import linear_layers
from adapterzoo.model.parts import is_empty

if TYPE_CHECKING:
    import torch
    from torch import nn

# A share of an update that is smaller than this comes from rounding in float32.
ROUNDING = 1e-8
PROBES = 128  # rank up to which an update is decomposed by random vectors


class NotLoraError(AdapterzooError):
    """Raised if an adapter cannot be written as LoRA. The message says why; its subject, the adapter, is left out."""

    def __init__(self, what: str, hint: str = "") -> None:
        super().__init__(what)
        self.hint = hint


class Update(NamedTuple):
    """The singular value decomposition of a layer's merged weight minus its weight in the base model.

    Vectors whose values come from rounding are left out.
    """

    left: torch.Tensor
    """left singular vectors, (out_features, rank)"""
    values: torch.Tensor
    """singular values, the largest first; also those from rounding, unless the rank is low"""
    right: torch.Tensor
    """right singular vectors, (rank, in_features)"""

    @classmethod
    def of(cls, delta: torch.Tensor) -> Update:
        """Decompose what is added to the weight of a layer, (out_features, in_features)."""
        import torch

        whole = cls._of_low_rank(delta) or cls(*torch.linalg.svd(delta, full_matrices=False))
        rank = whole.rank(1 - ROUNDING)
        return cls(whole.left[:, :rank].clone(), whole.values, whole.right[:rank].clone())

    @classmethod
    def _of_low_rank(cls, delta: torch.Tensor) -> Update | None:
        """Decompose an update whose rank is below PROBES, several times as fast; return None if its rank is higher.

        The images of random vectors then span all columns, which is checked (Halko, Martinsson and Tropp, 2011).
        """
        import torch

        if min(delta.shape) <= 2 * PROBES:
            return None
        random = torch.Generator(delta.device).manual_seed(0)
        probes = torch.randn(delta.shape[1], PROBES, generator=random, device=delta.device, dtype=delta.dtype)
        basis = torch.linalg.qr(delta @ probes).Q
        inside = basis.T @ delta
        outside = (delta - basis @ inside).double().square().sum()
        if not float(outside) <= ROUNDING / 2 * float(delta.double().square().sum()):
            return None
        left, values, right = torch.linalg.svd(inside, full_matrices=False)
        return cls(basis @ left, values, right)

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
    """name of a layer -> what is added to its weight, (out_features, in_features); empty if nothing was changed"""
    transposed: bool
    """whether the layers keep their weights transposed"""
    model_type: str | None
    """type of the model in its configuration"""


class Updates(NamedTuple):
    """The singular value decompositions of the changes that an adapter makes to the weights of linear layers."""

    by_layer: dict[str, Update]
    """name of a layer -> its update"""
    transposed: bool
    """whether the layers keep their weights transposed"""
    model_type: str | None
    """type of the model in its configuration"""

    @classmethod
    def of(cls, deltas: Iterable[Deltas]) -> Updates:
        """Decompose the changes in one part of a model after the other.

        Raises:
            NotLoraError: nothing is changed.
        """
        updates, transposed, model_type = dict[str, Update](), False, None
        for part in deltas:
            updates |= {name: Update.of(delta) for name, delta in part.by_layer.items()}
            transposed, model_type = transposed or part.transposed, part.model_type
        if not updates:
            raise NotLoraError("changes no weight, so there is nothing to export.")
        return cls(updates, transposed, model_type)

    def whole_rank(self) -> int:
        """Return the rank of a LoRA adapter that holds all of the updates, up to rounding."""
        return max(update.rank(1 - ROUNDING) for update in self.by_layer.values())


def deltas_of(model: nn.Module, merge: Callable[[nn.Module], nn.Module]) -> Deltas:
    """Return what an adapter adds to the weights of a model.

    Args:
        model: the base model without quantization, which is changed; weights without content are left out.
        merge: puts the adapter on the model and merges it.

    Raises:
        NotLoraError: the adapter changes other weights than those of linear layers.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    with torch.no_grad():
        model.float()  # the rounding of bfloat16 would be an update of full rank
        weights = dict(model.named_parameters())
        before = {name: weight.clone() for name, weight in weights.items() if not is_empty(weight)}
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
        model_type = getattr(getattr(merged, "config", None), "model_type", None)
        return Deltas(
            {layers[name]: delta.T if transposed else delta for name, delta in changed.items()}, transposed, model_type
        )
