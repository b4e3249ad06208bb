"""Gather the layer that is probably needed next while the present one is computed, as prefetching in FSDP does.

The ranks have just agreed on a layer, and have put it together. Now they begin to send each other the parts of the
layer that is probably next, and do not wait for them: a connection works while the processor computes. When a rank
needs that layer, the ranks agree on it as on any other, and it is there already, or soon.

All ranks have to begin the same gather, and ask nobody which one it is. They can, because all see the same sequence of
layers that were agreed on. Each remembers which layer followed the same two layers the last time. So the way through
the model, the way back and the writing of an answer are known after each was done once. If another layer is agreed on,
what was gathered is thrown away, which costs the time of one message.

What was gathered has to be what the ranks would send now. If a rank has another part by now, or if it trains a tensor
of the layer or has replaced one, it says so in the message by which they agree. Then the layer is thrown away, and not
gathered ahead any more until the model is taken apart. Ranks take the model apart at the end of a cell, and one may do
so while others still read: so the message also says which layer a rank expects, and how often it has taken the model
apart. Where ranks differ in this, all of them throw away what is on its way.

At most one layer is on its way. On a GPU, a gather is done by a stream of its own. Each is begun, awaited and freed on
the stream that computes. Its memory, and that of the parts that are sent, comes from that stream, and is given back
only after that stream was told to wait for the gather: whatever gets this memory next comes later in the same
stream. So no ``record_stream`` is needed, which would keep memory longer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import torch
from torch import distributed

from adapterzoo.model.piece import Gather, Piece

NOTHING = 2**62
"""number of a layer that a rank names if it needs none"""


class Ahead:
    """The layer that is gathered although no rank has asked for it yet, and what is known of the order of layers."""

    def __init__(self, units: Sequence[Sequence[Piece]] = ()) -> None:
        """Begin with nothing on its way.

        Args:
            units: for each layer its pieces; without them, as while a model is loaded, nothing is gathered ahead.
        """
        self._units = units
        self.number: int | None = None
        """number of the layer; None if nothing is on its way"""
        self._gathers: list[Gather] = []
        self._last_two: tuple[int | None, int | None] = (None, None)
        self._followers: dict[tuple[int | None, int | None], int] = {}
        """two layers, one after the other -> the layer that was needed after them the last time"""
        self._excluded = set[int]()
        """numbers of the layers that a rank has changed or trains"""
        self._times_allowed = 0
        """how often :meth:`allow_all` was called, which is when the model is taken apart"""

    def agree(self, wanted: int) -> int:
        """Return the first layer that any rank wants, and throw away what is on its way if that is of no use for it.

        Args:
            wanted: number of the layer that this rank wants, or NOTHING.
        """
        own = (-1 if self.number is None else self.number, self._times_allowed)
        valid = int(all(gather.is_valid for gather in self._gathers))
        # Each number becomes the smallest one of all ranks. If its negative does not become the negative of that, the
        # ranks have different ones.
        message = torch.tensor([wanted, valid, *own, *(-value for value in own)], device="cpu")
        distributed.all_reduce(message, op=distributed.ReduceOp.MIN)
        number, valid, *seen = map(int, message)
        if number == NOTHING:
            return number
        self._followers[self._last_two] = number
        self._last_two = (self._last_two[1], number)
        alike = seen == [*own, *(-value for value in own)]
        if not alike:
            self._excluded.clear()
        elif self.number == number and not valid:
            self._excluded.add(number)
        if self.number != number or not valid or not alike:
            self.drop()
        return number

    def begin(self) -> None:
        """Begin to gather the layer that followed the last two before; do nothing if that is not known."""
        number = self._followers.get(self._last_two)
        if number is None or not self._units or number in self._excluded:
            return
        self.number = number
        for piece in self._units[number]:
            self._gathers.append(piece.begin())

    def wait(self) -> None:
        """Wait until nothing is on its way, and keep what has come."""
        for gather in self._gathers:
            gather.wait()

    def use(self) -> None:
        """Give the tensors of the layer their content."""
        for gather in self._gathers:
            gather.use()
        self._gathers.clear()
        self.number = None

    def drop(self) -> None:
        """Throw away what is on its way, or has come."""
        for gather in self._gathers:
            # If another rank has died, the next message says so. Here it would hide an error of this rank.
            with suppress(RuntimeError):
                gather.wait()
            gather.free()
        self._gathers.clear()
        self.number = None

    def allow_all(self) -> None:
        """Let every layer be gathered ahead again, because nothing is changed or trained any more."""
        self.drop()
        self._excluded.clear()
        self._times_allowed += 1
