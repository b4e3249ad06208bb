"""Export a trained adapter of any method that can be merged as a LoRA adapter, which servers of many adapters load."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.adapters.change import ScoreChange, TestRows
from adapterzoo.adapters.finding import Adapter, Say
from adapterzoo.adapters.loading import apply_adapter, load_base
from adapterzoo.adapters.merging import check_mergeable
from adapterzoo.errors import UserError
from adapterzoo.files import new_folder
from adapterzoo.methods.layers import WEIGHTS, linear_layers
from adapterzoo.methods.registry import registry

if TYPE_CHECKING:
    import torch

DEFAULT_KEEP = 0.99
# Updates of at most this rank are exported whole, unless a rank or a share is given.
MAX_WHOLE_RANK = 64
# A share of an update that is smaller than this comes from rounding in float32.
ROUNDING = 1e-8


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


class Export(NamedTuple):
    """A LoRA adapter that was made of another adapter."""

    rank: int
    kept: float
    """share of the update that it holds, in the layer in which this is least"""
    changes: list[ScoreChange]
    """how the scores of the test rows change; empty if they were not measured"""


def export_lora(
    adapter: Adapter,
    to: Path,
    say: Say,
    *,
    rank: int | None = None,
    keep: float | None = None,
    measure: bool = True,
) -> Export:
    """Write a LoRA adapter that changes the base model's weights as an adapter does, or as nearly as its rank allows.

    Args:
        adapter: the adapter, of any method that can be merged.
        to: the folder to write.
        say: is called with a message before each step that takes long.
        rank: rank of the LoRA adapter; by default the smallest that is needed.
        keep: share of the update, by squares, that each layer has to keep; by default all of it if a rank of
            MAX_WHOLE_RANK is enough for that, else DEFAULT_KEEP.
        measure: whether to measure the LoRA adapter on the test rows.

    Raises:
        UserError: the folder is not empty, the adapter cannot be merged, or it changes weights that LoRA does not.
    """
    check_mergeable(adapter, to)
    updates, transposed = _updates(adapter, say)
    if rank is None:
        whole = max(update.rank(1 - ROUNDING) for update in updates.values())
        share = DEFAULT_KEEP if keep is None else keep
        needed = max(update.rank(share) for update in updates.values())
        rank = whole if keep is None and whole <= MAX_WHOLE_RANK else needed
    with new_folder(to) as folder:
        _write(adapter, updates, rank, transposed, folder)
        changes = _changes(adapter, folder, say) if measure else []
    return Export(rank, min(update.kept(rank) for update in updates.values()), changes)


def _updates(adapter: Adapter, say: Say) -> tuple[dict[str, Update], bool]:
    """Return name of a layer -> what the adapter adds to its weight, and whether the layers keep it transposed."""
    import torch
    from transformers.pytorch_utils import Conv1D

    quantization = adapter.result.quantization
    base, _ = load_base(adapter, quantization, say, dequantized=quantization != "none")
    with base.borrow() as model, torch.no_grad():
        model.float()  # the rounding of bfloat16 would be an update of full rank
        before = {name: parameter.clone() for name, parameter in model.named_parameters()}
        layers = {f"{name}.weight": name for name in linear_layers(model)}
        merged: Any = registry()[adapter.result.method or ""].merge(apply_adapter(adapter, model, "none"))
        after = dict(merged.named_parameters())
        changed = {
            name: after[name] - weight for name, weight in before.items() if not torch.equal(after[name], weight)
        }
        transposed = any(isinstance(merged.get_submodule(layers[name]), Conv1D) for name in changed if name in layers)
        if others := sorted(set(changed) - set(layers)):
            what = f"changes {others[0]}" + (f" and {len(others) - 1} more" if len(others) > 1 else "")
            hint = "Merge it instead."
            raise UserError.at(
                f"--method {adapter.result.label}", f"{what}, and LoRA changes linear layers only.", hint
            )
        if not changed:
            raise UserError.at(f"--method {adapter.result.label}", "changes no weight, so there is nothing to export.")
        deltas = {layers[name]: delta.T if transposed else delta for name, delta in changed.items()}
        return {
            name: Update(*torch.linalg.svd(delta, full_matrices=False)) for name, delta in deltas.items()
        }, transposed


def _write(adapter: Adapter, updates: Mapping[str, Update], rank: int, transposed: bool, folder: Path) -> None:
    """Write a LoRA adapter of one rank, with its configuration and the tokenizer of the adapter."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    weights = {}
    for name, update in updates.items():
        root = update.values[:rank].sqrt()
        weights[f"base_model.model.{name}.lora_A.weight"] = _padded(root[:, None] * update.right[:rank], rank, 0)
        weights[f"base_model.model.{name}.lora_B.weight"] = _padded(update.left[:, :rank] * root, rank, 1)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(updates),
        fan_in_fan_out=transposed,
        base_model_name_or_path=adapter.recipe.model.name,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    folder.mkdir()
    config.save_pretrained(str(folder))
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    for path in adapter.path.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in os.listdir(folder):
            shutil.copy(path, folder / path.name)  # the tokenizer


def _padded(factor: torch.Tensor, rank: int, dim: int) -> torch.Tensor:
    """Return a factor with zeros up to the rank, for a layer that has fewer rows or columns."""
    from torch.nn import functional

    missing = rank - factor.shape[dim]
    return functional.pad(factor, (0, 0, 0, missing) if dim == 0 else (0, missing)).contiguous()


def _changes(adapter: Adapter, folder: Path, say: Say) -> list[ScoreChange]:
    """Return how the scores of the test rows change with the LoRA adapter in a folder, as PEFT alone loads it."""
    from peft import PeftModel

    base, _ = load_base(adapter, adapter.result.quantization, say)
    rows = TestRows.of(adapter, base, say)
    if rows is None:
        return []
    with base.borrow() as model:
        return rows.change(adapter, PeftModel.from_pretrained(model, str(folder)).eval(), say)
