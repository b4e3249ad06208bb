"""Export a trained adapter of any method that can be merged as a LoRA adapter, which servers of many adapters load."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from adapterzoo.adapters.change import ScoreChange, TestRows
from adapterzoo.adapters.finding import Adapter, Say
from adapterzoo.adapters.loading import load_base
from adapterzoo.adapters.merging import check_mergeable
from adapterzoo.adapters.merging_in_parts import merge_part, of_all_parts
from adapterzoo.adapters.updates import Deltas, NotLoraError, Updates, deltas_of
from adapterzoo.errors import UserError
from adapterzoo.files import new_folder
from adapterzoo.methods.layers import CONFIG, WEIGHTS
from adapterzoo.methods.peft_targets import as_plain_peft_reads

if TYPE_CHECKING:
    import torch

    from adapterzoo.model.parts import Part

T = TypeVar("T")
DEFAULT_KEEP = 0.99
# Updates of at most this rank are exported whole, unless a rank or a share is given.
MAX_WHOLE_RANK = 64
# Names of the weights of a LoRA adapter in PEFT's files: the prefix, the layer, the factor.
PREFIX, FACTORS = "base_model.model.", (".lora_A.weight", ".lora_B.weight")


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
    updates = of_deltas(adapter, say, Updates.of)
    if rank is None:
        whole = updates.whole_rank()
        share = DEFAULT_KEEP if keep is None else keep
        needed = max(update.rank(share) for update in updates.by_layer.values())
        rank = whole if keep is None and whole <= MAX_WHOLE_RANK else needed
    with new_folder(to) as folder:
        write_lora(adapter, updates, rank, folder)
        changes = changes_with(adapter, folder, say) if measure else []
    return Export(rank, min(update.kept(rank) for update in updates.by_layer.values()), changes)


def of_deltas(adapter: Adapter, say: Say, use: Callable[[Iterator[Deltas]], T]) -> T:
    """Return what a function makes of the changes by an adapter, in one part of its base model after the other.

    Raises:
        UserError: the adapter changes weights that LoRA does not change, or none.
    """
    base, _ = load_base(adapter, adapter.result.quantization, say)

    def changes(part: Part) -> Deltas:
        return deltas_of(part.model, lambda model: merge_part(adapter, part))

    try:
        return of_all_parts(adapter, base, say, lambda pieces: use(map(changes, pieces)), precise=True)
    except NotLoraError as error:
        raise UserError.at(f"--method {adapter.result.label}", str(error), error.hint) from None


def write_lora(adapter: Adapter, updates: Updates, rank: int, folder: Path) -> None:
    """Write a LoRA adapter of one rank, with its configuration and the tokenizer of the adapter."""
    from peft import LoraConfig
    from safetensors.torch import save_file

    weights = {}
    for name, update in updates.by_layer.items():
        root = update.values[: min(rank, update.left.shape[1])].sqrt()
        weights[PREFIX + name + FACTORS[0]] = _padded(root[:, None] * update.right[:rank], rank, 0)
        weights[PREFIX + name + FACTORS[1]] = _padded(update.left[:, :rank] * root, rank, 1)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=sorted(updates.by_layer),
        fan_in_fan_out=updates.transposed,
        base_model_name_or_path=adapter.recipe.model.name,
        task_type="CAUSAL_LM",
        inference_mode=True,
    )
    folder.mkdir()
    config.save_pretrained(str(folder))
    saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    saved = as_plain_peft_reads(saved, updates.model_type, updates.by_layer)
    (folder / CONFIG).write_text(json.dumps(saved, indent=2, sort_keys=True), encoding="utf-8")
    save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})
    for path in adapter.path.iterdir():
        if path.is_file() and path.suffix != ".safetensors" and path.name not in os.listdir(folder):
            shutil.copy(path, folder / path.name)  # the tokenizer


def _padded(factor: torch.Tensor, rank: int, dim: int) -> torch.Tensor:
    """Return a factor with zeros up to the rank, for a layer that has fewer rows or columns."""
    from torch.nn import functional

    missing = rank - factor.shape[dim]
    return functional.pad(factor, (0, 0, 0, missing) if dim == 0 else (0, missing)).contiguous()


def changes_with(adapter: Adapter, folder: Path, say: Say) -> list[ScoreChange]:
    """Return how the scores of the test rows change with the LoRA adapter in a folder, as PEFT alone loads it."""
    from peft import PeftModel

    base, _ = load_base(adapter, adapter.result.quantization, say)
    rows = TestRows.of(adapter, base, say)
    if rows is None:
        return []
    with base.borrow() as model:
        return rows.change(adapter, PeftModel.from_pretrained(model, str(folder)).eval(), say)
