"""Check on a GPU that a layer that is gathered by a stream of its own is right, and that its memory is given back."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.gpu

LAYERS, WIDTH, TIMES = 8, 4096, 20


@pytest.fixture
def nccl(tmp_path: Path) -> Iterator[None]:
    """Be the only rank of a group, because nccl accepts one for each GPU; its messages are sent all the same."""
    from torch import distributed

    where = f"file://{tmp_path / 'ranks'}"
    distributed.init_process_group("cpu:gloo,cuda:nccl", init_method=where, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def stack() -> Any:
    """Return linear layers on the GPU, each of 64 MB, which :mod:`adapterzoo.model.layers` takes for layers."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    with torch.device("cuda"):
        return nn.Sequential(*(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))).requires_grad_(False)


def test_layers_that_are_gathered_ahead_give_the_same_bits_and_leave_no_memory(nccl: None) -> None:
    import torch

    from adapterzoo.model.divided import Divided

    model, inputs = stack(), torch.randn(2048, WIDTH, device="cuda", requires_grad=True)
    model(inputs).sum().backward()
    expected = inputs.grad.clone()
    layer_bytes, divided, late = WIDTH * WIDTH * 4, Divided(), list[int]()
    gather = divided._gather
    divided._gather = lambda number: (late.append(number), gather(number))[1]  # type: ignore[method-assign]
    with divided.used():
        divided.take(model)
        for _ in range(TIMES):
            inputs.grad = None
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            model(inputs).sum().backward()
            peak = torch.cuda.max_memory_allocated() - before
            assert torch.equal(inputs.grad, expected)
            # Every layer's inputs are kept for the way back, with two layers beside them.
            assert peak < 2.5 * layer_bytes + (LAYERS + 4) * inputs.nbytes
        assert len(late) <= 2 * LAYERS, "after the first time, all is gathered ahead"
        # A wrong guess: the memory of what is thrown away is used by others at once.
        weights = [layer.weight for layer in model]
        sums = [weight.double().sum() for weight in weights]
        for number in (0, 1, 2, 5, 0, 1, 7, 3, 0, 1, 2, 5) * 3:
            filler = torch.full((WIDTH, WIDTH), float(number), device="cuda")
            assert torch.equal(weights[number].double().sum(), sums[number])
            assert bool((filler == number).all())
            del filler
    assert divided._ahead.number is None
    divided.rest()
    assert all(weight.untyped_storage().nbytes() == 0 for weight in weights)
