"""Show the trainer an optimizer of whole weights, while DeepSpeed steps another one on parts of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch.optim import Optimizer

from adapterzoo.errors import AdapterzooError

INDIVISIBLE = ("LBFGS", "Adafactor", "Muon", "SparseAdam", "Adagrad")
"""optimizers of torch whose step for one number of a weight depends on the others, or on the weight's shape; and
Adagrad, which DeepSpeed replaces by another one of its class"""


class DividedOptimizer(Optimizer):  # type: ignore[misc]  # torch is not followed for types
    """The optimizer that the trainer sees: it holds whole weights, and its step is DeepSpeed's."""

    def __init__(self, own: Optimizer, step: Callable[[], None]) -> None:
        """Take the groups and settings of an optimizer.

        Args:
            own: the optimizer, whose weights DeepSpeed replaces by parts of them.
            step: lets DeepSpeed make a step with it.
        """
        super().__init__([dict(group) for group in own.param_groups], own.defaults)
        self.own, self._step = own, step

    def step(self, closure: Any = None) -> None:
        """Give the settings of this step, such as the learning rate, to all parts, and let DeepSpeed do it."""
        for group, shown in zip(self.own.param_groups, self.param_groups, strict=True):
            group.update({name: value for name, value in shown.items() if name != "params"})
        self._step()


def check_optimizer(optimizer: Optimizer) -> None:
    """Refuse an optimizer that may not treat each number by itself, because it will get flat parts of the weights.

    Raises:
        AdapterzooError: it does not, or that is not known.
    """
    kind = type(optimizer)
    if not kind.__module__.startswith("torch.optim") or kind.__name__ in INDIVISIBLE:
        raise AdapterzooError(f"ZeRO steps parts of weights, which does not work with {kind.__name__}")


def groups_of_one_dtype(groups: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Divide an optimizer's groups by the type of the numbers, because DeepSpeed joins a group's weights."""
    found = []
    for group in groups:
        for dtype in dict.fromkeys(parameter.dtype for parameter in group["params"]):
            found.append({**group, "params": [p for p in group["params"] if p.dtype == dtype]})
    return found
