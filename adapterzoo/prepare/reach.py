"""Count how much of a model the options ``target_modules`` and ``target_parameters`` reach, by kind of layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.methods.experts import expert_names, fused_experts
from adapterzoo.methods.targets import targeted
from adapterzoo.prepare.plan import MethodCell

if TYPE_CHECKING:
    from torch import nn

HEAD = "output head"
EXPERTS = "fused experts"


@dataclass(frozen=True)
class Reach:
    """The share of the model's parameters in the layers that a method adapts, for all cells with the same targets."""

    labels: list[str]
    targets: str
    """the targets, as the user writes them"""
    kinds: dict[str, tuple[int, int]]
    """kind of layer -> its parameters, and how many of them are reached; the largest kind first"""

    @property
    def share(self) -> float:
        """Return the share of all parameters that is reached."""
        return sum(reached for _, reached in self.kinds.values()) / sum(size for size, _ in self.kinds.values())

    def __str__(self) -> str:
        total = sum(size for size, _ in self.kinds.values())
        whole = [kind for kind, (size, reached) in self.kinds.items() if reached == size]
        partly = [
            f"{reached / size:.0%} of {kind}" for kind, (size, reached) in self.kinds.items() if 0 < reached < size
        ]
        missed = [f"{kind} ({size / total:.1%})" for kind, (size, reached) in self.kinds.items() if not reached]
        parts = [f"all of {', '.join(whole)}"] * bool(whole) + partly
        parts += [f"nothing of {', '.join(missed)}"] * bool(missed)
        labels = ", ".join(self.labels)
        return f"{labels}: {self.targets} reaches {self.share:.1%} of the parameters: {'; '.join(parts)}"

    @property
    def missed_experts(self) -> float:
        """Return the share of all parameters that is in fused experts that are not reached."""
        size, reached = self.kinds.get(EXPERTS, (0, 0))
        return (size - reached) / sum(size for size, _ in self.kinds.values())


def reach_of(skeleton: nn.Module, cells: Sequence[MethodCell]) -> list[Reach]:
    """Return what the targets of the cells reach; methods without targets are left out.

    Args:
        skeleton: the base model, without an adapter.
        cells: the cells with methods.
    """
    found: dict[str, Reach] = {}
    for cell in cells:
        modules, parameters = (cell.options.get(name) for name in ("target_modules", "target_parameters"))
        if modules is None:
            continue
        named = f"target_modules {_text(modules)}"
        if parameters:
            named += f" with target_parameters {_text(parameters)}"
        if named not in found:
            found[named] = Reach([], named, _kinds(skeleton, modules, parameters or []))
        if cell.label not in found[named].labels:
            found[named].labels.append(cell.label)
    return list(found.values())


def _text(targets: Any) -> str:
    return targets if isinstance(targets, str) else ", ".join(targets)


def _kinds(skeleton: nn.Module, modules: Any, parameters: Any) -> dict[str, tuple[int, int]]:
    """Return kind of layer -> its parameters, and how many of them are reached."""
    layers = {id(layer) for layer in targeted(skeleton, modules).values()}
    experts, ends = fused_experts(skeleton), tuple(expert_names(skeleton, parameters))
    reached_experts = {id(weight) for name, weight in experts.items() if name.endswith(ends)} if ends else set()
    fused = {id(weight) for weight in experts.values()}
    head = skeleton.get_output_embeddings() if hasattr(skeleton, "get_output_embeddings") else None
    kinds: dict[str, list[int]] = {}
    seen = set[int]()
    for module in skeleton.modules():
        for parameter in module.parameters(recurse=False):
            if id(parameter) in seen:  # tied weights count once, as what they are first
                continue
            seen.add(id(parameter))
            kind = EXPERTS if id(parameter) in fused else HEAD if module is head else type(module).__name__
            sizes = kinds.setdefault(kind, [0, 0])
            sizes[0] += parameter.numel()
            sizes[1] += parameter.numel() * (id(module) in layers or id(parameter) in reached_experts)
    return {kind: (sizes[0], sizes[1]) for kind, sizes in sorted(kinds.items(), key=lambda item: -item[1][0])}
