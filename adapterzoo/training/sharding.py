"""Share the gradients of an adapter among ranks whose base model is divided (``train.sharding``).

The adapter is small: it stays whole on every rank, so that methods, optimizers, checkpoints and saved adapters are
those of one process.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import distributed, nn

from adapterzoo.machine import ranks


def make_whole(parameters: Sequence[nn.Parameter]) -> None:
    """Let the ranks put together the weights of the base model that are trained, which then stay whole.

    Otherwise the watch of the training would take the checksum of a part at the beginning and that of the whole weight
    at the end, and call that a change.
    """
    for parameter in parameters:
        parameter.detach().flatten()[:1].clone()  # whatever reads a number of a weight makes it whole


def send_from_rank_0(parameters: Sequence[nn.Parameter]) -> None:
    """Give all ranks the values that trained parameters have on rank 0."""
    ranks.wait()
    for parameter in parameters:
        distributed.broadcast(parameter.data, src=0)


def average_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Give all ranks the mean of their gradients, where any of them has one."""
    used = ranks.totals([float(parameter.grad is not None) for parameter in parameters])
    shared = [parameter for parameter, number in zip(parameters, used, strict=True) if number]
    for dtype in dict.fromkeys(parameter.dtype for parameter in shared):  # in one order on all ranks
        alike = [parameter for parameter in shared if parameter.dtype == dtype]
        for parameter in alike:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        # One message for all of them takes much less time than many small ones.
        message = torch.cat([parameter.grad.flatten() for parameter in alike if parameter.grad is not None])
        distributed.all_reduce(message)
        parts = (message / ranks.count()).split([parameter.numel() for parameter in alike])
        for parameter, part in zip(alike, parts, strict=True):
            parameter.grad = part.view_as(parameter)
