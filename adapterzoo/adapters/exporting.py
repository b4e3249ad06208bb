"""Export a trained adapter of any method that can be merged as a LoRA adapter, which servers of many adapters load."""

from __future__ import annotations

import json
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
FORM = "LoRA"
CONVERTED = "LoRA, converted"
# Names of the weights of a LoRA adapter in PEFT's files: the prefix, the layer, the factor.
PREFIX, FACTORS = "base_model.model.", (".lora_A.weight", ".lora_B.weight")
# Two updates are the same if they differ by no more than this share of their size, which float32 explains.
SAME, TINY = 1e-3, 1e-6


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


class Servable(NamedTuple):
    """The form in which servers of many adapters can load an adapter."""

    form: str
    rank: int
    changes: list[ScoreChange]
    """how the scores of the test rows change; empty if nothing is lost"""


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
    deltas, transposed = _deltas(adapter, say)
    updates = _decomposed(deltas)
    if rank is None:
        whole = max(update.rank(1 - ROUNDING) for update in updates.values())
        share = DEFAULT_KEEP if keep is None else keep
        needed = max(update.rank(share) for update in updates.values())
        rank = whole if keep is None and whole <= MAX_WHOLE_RANK else needed
    with new_folder(to) as folder:
        _write(adapter, updates, rank, transposed, folder)
        changes = _changes(adapter, folder, say) if measure else []
    return Export(rank, min(update.kept(rank) for update in updates.values()), changes)


def make_servable(adapter: Adapter, to: Path, say: Say) -> Servable:
    """Find the LoRA adapter that servers can load in place of an adapter, and write it unless it is the adapter itself.

    Servers limit the rank, so an update of a higher rank than MAX_WHOLE_RANK is cut to that, and measured.

    Args:
        adapter: the adapter.
        to: the folder to write.
        say: is called with a message before each step that takes long.

    Raises:
        UserError: as in :func:`export_lora`.
    """
    check_mergeable(adapter, to)
    deltas, transposed = _deltas(adapter, say)
    if (rank := _own_rank(adapter.path, deltas)) is not None:
        return Servable(FORM, rank, [])
    updates = _decomposed(deltas)
    whole = max(update.rank(1 - ROUNDING) for update in updates.values())
    rank = min(whole, MAX_WHOLE_RANK)
    with new_folder(to) as folder:
        _write(adapter, updates, rank, transposed, folder)
        changes = _changes(adapter, folder, say) if whole > rank else []
    return Servable(CONVERTED, rank, changes)


def _own_rank(folder: Path, deltas: Mapping[str, torch.Tensor]) -> int | None:
    """Return the rank of an adapter that servers can load as it is; None if they would not answer like it.

    Servers read the two factors of each layer, and multiply their product with ``lora_alpha`` through the rank, or
    through its root. They ignore, or refuse, whatever else PEFT's LoRA can do.

    Args:
        folder: the adapter's folder.
        deltas: name of a layer -> what the adapter adds to its weight.
    """
    import torch
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        return None
    weights = load_file(folder / WEIGHTS)
    layers = {name.removesuffix(FACTORS[0]) for name in weights if name.endswith(FACTORS[0])}
    if {name + factor for name in layers for factor in FACTORS} != set(weights):
        return None
    scaling = config["lora_alpha"] / (config["r"] ** (0.5 if config.get("use_rslora") else 1))
    read = {
        name.removeprefix(PREFIX): scaling * weights[name + FACTORS[1]].float() @ weights[name + FACTORS[0]].float()
        for name in layers
    }
    for name in {*read, *deltas}:
        missing = torch.zeros(())
        first, second = read.get(name, missing), deltas.get(name, missing).cpu()
        if not float((first - second).norm()) <= SAME * float(second.norm()) + TINY:
            return None
    return max(int(weights[name + FACTORS[0]].shape[0]) for name in layers)


def _decomposed(deltas: Mapping[str, torch.Tensor]) -> dict[str, Update]:
    import torch

    return {name: Update(*torch.linalg.svd(delta, full_matrices=False)) for name, delta in deltas.items()}


def _deltas(adapter: Adapter, say: Say) -> tuple[dict[str, torch.Tensor], bool]:
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
        return {layers[name]: delta.T if transposed else delta for name, delta in changed.items()}, transposed


def _write(adapter: Adapter, updates: Mapping[str, Update], rank: int, transposed: bool, folder: Path) -> None:
    """Write a LoRA adapter of one rank, with its configuration and the tokenizer of the adapter."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    weights = {}
    for name, update in updates.items():
        root = update.values[:rank].sqrt()
        weights[PREFIX + name + FACTORS[0]] = _padded(root[:, None] * update.right[:rank], rank, 0)
        weights[PREFIX + name + FACTORS[1]] = _padded(update.left[:, :rank] * root, rank, 1)
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
