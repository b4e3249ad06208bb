"""Check the optimizer that the trainer sees while DeepSpeed divides the weights; DeepSpeed is not needed for that."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from adapterzoo.errors import AdapterzooError
from adapterzoo.training.divided_optimizer import DividedOptimizer, check_optimizer, groups_of_one_dtype


class OwnAdamW(torch.optim.AdamW):
    """An optimizer that a method brings; nobody knows whether its steps can be divided."""


def test_only_optimizers_that_treat_each_number_by_itself_are_divided() -> None:
    weights = [nn.Parameter(torch.zeros(2, 2))]
    for kind in (torch.optim.AdamW, torch.optim.SGD, torch.optim.RMSprop):
        check_optimizer(kind(weights, lr=0.1))
    indivisible = (torch.optim.LBFGS(weights), torch.optim.Adafactor(weights), OwnAdamW(weights))
    for optimizer in indivisible:
        with pytest.raises(AdapterzooError, match=f"does not work with {type(optimizer).__name__}"):
            check_optimizer(optimizer)


def test_weights_of_different_types_are_not_joined() -> None:
    small, large, other = (nn.Parameter(torch.zeros(n, dtype=d)) for n, d in ((1, torch.half), (2, None), (3, None)))
    groups = groups_of_one_dtype([{"params": [small, large, other], "lr": 0.1}, {"params": [], "lr": 0.2}])
    assert [(group["params"], group["lr"]) for group in groups] == [([small], 0.1), ([large, other], 0.1)]


def test_the_parts_are_stepped_with_the_rate_of_the_schedule() -> None:
    weights = nn.Parameter(torch.zeros(4))
    own = torch.optim.SGD([weights], lr=0.1)
    rates: list[Any] = []
    shown = DividedOptimizer(own, lambda: rates.append(own.param_groups[0]["lr"]))
    own.param_groups[0]["params"] = [nn.Parameter(torch.zeros(2))]  # as DeepSpeed does
    schedule = torch.optim.lr_scheduler.ExponentialLR(shown, 0.5)
    for _ in range(2):
        shown.step()
        schedule.step()
    assert rates == pytest.approx([0.1, 0.05])
    assert shown.param_groups[0]["params"] == [weights]
    assert own.param_groups[0]["params"][0].numel() == 2
