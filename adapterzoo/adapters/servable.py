"""Find the form in which servers of many adapters can load an adapter: as it is, or converted to LoRA."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adapterzoo.adapters.change import ScoreChange
from adapterzoo.adapters.exporting import FACTORS, MAX_WHOLE_RANK, PREFIX, adapter_deltas, changes_with, write_lora
from adapterzoo.adapters.finding import Adapter, Say
from adapterzoo.adapters.merging import check_mergeable
from adapterzoo.adapters.updates import whole_rank
from adapterzoo.files import new_folder
from adapterzoo.methods.layers import WEIGHTS

if TYPE_CHECKING:
    import torch

FORM = "LoRA"
CONVERTED = "LoRA, converted"
# Two updates are the same if they differ by no more than this share of their size, which float32 explains.
SAME, TINY = 1e-3, 1e-6


class Servable(NamedTuple):
    """The form in which servers of many adapters can load an adapter."""

    form: str
    rank: int
    changes: list[ScoreChange]
    """how the scores of the test rows change; empty if nothing is lost"""


def make_servable(adapter: Adapter, to: Path, say: Say) -> Servable:
    """Find the LoRA adapter that servers can load in place of an adapter, and write it unless it is the adapter itself.

    Servers limit the rank, so an update of a higher rank than MAX_WHOLE_RANK is cut to that, and measured.

    Args:
        adapter: the adapter.
        to: the folder to write.
        say: is called with a message before each step that takes long.

    Raises:
        UserError: as in :func:`adapterzoo.adapters.exporting.export_lora`.
    """
    check_mergeable(adapter, to)
    deltas = adapter_deltas(adapter, say)
    if (rank := _own_rank(adapter.path, deltas.by_layer)) is not None:
        return Servable(FORM, rank, [])
    updates = deltas.decomposed()
    whole = whole_rank(updates)
    rank = min(whole, MAX_WHOLE_RANK)
    with new_folder(to) as folder:
        write_lora(adapter, updates, rank, deltas, folder)
        changes = changes_with(adapter, folder, say) if whole > rank else []
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
