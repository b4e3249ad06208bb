"""Find the form in which servers of many adapters can load an adapter: as it is, or converted to LoRA."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from adapterzoo.adapters.change import ScoreChange
from adapterzoo.adapters.exporting import FACTORS, MAX_WHOLE_RANK, PREFIX, changes_with, of_deltas, write_lora
from adapterzoo.adapters.finding import Adapter, Say
from adapterzoo.adapters.merging import check_mergeable
from adapterzoo.adapters.updates import Deltas, Updates
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
    own = _factors(adapter.path)
    if own is not None and of_deltas(adapter, say, partial(_have_effect, own)):
        return Servable(FORM, own.rank, [])
    updates = of_deltas(adapter, say, Updates.of)
    whole = updates.whole_rank()
    rank = min(whole, MAX_WHOLE_RANK)
    with new_folder(to) as folder:
        write_lora(adapter, updates, rank, folder)
        changes = changes_with(adapter, folder, say) if whole > rank else []
    return Servable(CONVERTED, rank, changes)


class _Factors(NamedTuple):
    """The factors of an adapter that servers can load as it is, perhaps with another effect."""

    by_layer: dict[str, tuple[torch.Tensor, torch.Tensor]]
    """name of a layer -> its factors, of shape (rank, in_features) and (out_features, rank)"""
    scaling: float
    """what servers multiply the product of the factors with"""

    @property
    def rank(self) -> int:
        return max(int(first.shape[0]) for first, _ in self.by_layer.values())

    def read(self, name: str) -> torch.Tensor:
        """Return what servers add to the weight of a layer."""
        first, second = self.by_layer[name]
        return self.scaling * second.float() @ first.float()


def _factors(folder: Path) -> _Factors | None:
    """Return the factors of an adapter that servers can load as it is; None if they cannot.

    Servers read the two factors of each layer, and multiply their product with ``lora_alpha`` through the rank, or
    through its root. They ignore, or refuse, whatever else PEFT's LoRA can do.
    """
    from safetensors.torch import load_file

    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        return None
    weights = load_file(folder / WEIGHTS)
    layers = {name.removesuffix(FACTORS[0]) for name in weights if name.endswith(FACTORS[0])}
    if not layers or {name + factor for name in layers for factor in FACTORS} != set(weights):
        return None
    found = {name.removeprefix(PREFIX): (weights[name + FACTORS[0]], weights[name + FACTORS[1]]) for name in layers}
    return _Factors(found, config["lora_alpha"] / (config["r"] ** (0.5 if config.get("use_rslora") else 1)))


def _have_effect(factors: _Factors, deltas: Iterator[Deltas]) -> bool:
    """Tell whether servers that load these factors change the weights as the adapter does."""
    import torch

    nothing, unseen = torch.zeros(()), set(factors.by_layer)
    for part in deltas:
        for name, delta in part.by_layer.items():
            unseen.discard(name)
            read = factors.read(name) if name in factors.by_layer else nothing
            if not _same(read, delta.cpu()):
                return False
    return all(_same(factors.read(name), nothing) for name in unseen)


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    return float((first - second).norm()) <= SAME * float(second.norm()) + TINY
