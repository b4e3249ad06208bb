"""Check what several processes do with the gradients of an adapter."""

from __future__ import annotations

from cell_ranks import by_ranks

from adapterzoo.machine import ranks


def test_gradients_are_averaged_where_any_process_has_one() -> None:
    import torch
    from torch import nn

    from adapterzoo.training.sharding import average_gradients

    def averaged() -> list[float | None]:
        both, one, none = (nn.Parameter(torch.zeros(2)) for _ in range(3))
        both.grad = torch.full((2,), float(ranks.number()))
        if ranks.number() == 1:
            one.grad = torch.ones(2)
        average_gradients([both, one, none])
        return [None if p.grad is None else float(p.grad.mean()) for p in (both, one, none)]

    assert by_ranks(averaged) == [[0.5, 0.5, None]] * 2
