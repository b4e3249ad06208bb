"""A weight of the base model that is divided among ranks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed, nn

from adapterzoo.machine import ranks
from adapterzoo.model.layers import layers, ordinary_tensors

ALIGNED = 16
"""the parts of a weight have a multiple of so many bytes, as kernels want"""


class Piece:
    """A divided weight: the tensor, whose content comes and goes, and this rank's part of its bytes."""

    def __init__(self, tensor: torch.Tensor, unit: int) -> None:
        self.tensor = tensor
        self.unit = unit
        """number of the layer that it is put together with"""
        self.is_whole = False
        self._divide()

    def _divide(self) -> None:
        """Keep this rank's part of the tensor, and free its content."""
        content = self.tensor.detach()
        self.storage = content.untyped_storage()
        size = -(-content.nbytes // ranks.count())
        size += -size % ALIGNED
        begin = size * ranks.number()
        self.part = torch.zeros(size, dtype=torch.uint8, device=content.device)
        if not self.storage.resizable() or self.storage.nbytes() != content.nbytes:
            # It is mapped from a file, or a part of something larger.
            content = content.contiguous()
            own = content.view(-1).view(torch.uint8)[begin : begin + size]
            self.part[: len(own)] = own
            self.tensor.data = torch.empty_like(content)
            self.storage = self.tensor.untyped_storage()
        else:
            own = _bytes(self.storage)[begin : begin + size]
            self.part[: len(own)] = own
        self.storage.resize_(0)

    @property
    def key(self) -> int:
        """The identity of the memory of the content; tensors that share it have the same."""
        return int(self.storage._cdata)

    @property
    def is_replaced(self) -> bool:
        """Whether something has given the tensor another content, which is whole on every rank."""
        return int(self.tensor.untyped_storage()._cdata) != self.key

    def put_together(self) -> None:
        """Give the tensor its content, with the other ranks."""
        if self.is_whole or self.is_replaced:  # it is trained
            self.give()
            return
        self.storage.resize_(len(self.part) * ranks.count())
        _gather(_bytes(self.storage), self.part)
        self.is_whole = True

    def give(self) -> None:
        """Give the other ranks this one's part."""
        _gather(self._elsewhere(), self.part)

    def begin(self) -> Gather:
        """Begin to put the tensor together, with the other ranks, and do not wait for them."""
        if self.is_whole or self.is_replaced:
            content = self._elsewhere()
        else:
            self.storage.resize_(len(self.part) * ranks.count())
            content = _bytes(self.storage)
        return Gather(self, self.part, content, _gather(content, self.part, async_op=True))

    def _elsewhere(self) -> torch.Tensor:
        """Return memory for the content, apart from the tensor."""
        return self.part.new_empty(len(self.part) * ranks.count())

    def take_apart(self, *, written: bool) -> None:
        """Free the content, also one that has replaced it; keep this rank's part of what has changed."""
        if self.is_replaced:
            self.storage.resize_(0)
            self._divide()
        elif self.is_whole:
            if written:
                self.keep_changes()
            self.storage.resize_(0)
        self.is_whole = False

    def keep_changes(self) -> None:
        """Take this rank's part out of the content again, because the content was written to."""
        # A new tensor, because the one before may be on its way to other ranks.
        self.part = _bytes(self.storage)[len(self.part) * ranks.number() :][: len(self.part)].clone()


@dataclass(frozen=True)
class Gather:
    """The content of a piece that is on its way from the other ranks."""

    piece: Piece
    part: torch.Tensor
    """what this rank sends; its memory has to last until it is sent"""
    content: torch.Tensor
    """where the content arrives, as bytes: in the memory of the tensor, unless that is in use"""
    work: Any
    """torch's handle of the message"""

    @property
    def is_valid(self) -> bool:
        """Whether this rank would still send the same, and its tensor is neither trained nor replaced."""
        piece = self.piece
        return piece.part is self.part and not piece.is_replaced and not piece.tensor.requires_grad

    def wait(self) -> None:
        """Wait until the content is there; on a GPU, let only the present stream wait."""
        self.work.wait()

    def use(self) -> None:
        """Wait, and give the tensor its content."""
        self.wait()
        storage, piece = self.content.untyped_storage(), self.piece
        if not piece.is_whole and storage._cdata != piece.key:  # it was whole when this began
            piece.storage.resize_(storage.nbytes())
            _bytes(piece.storage).copy_(self.content)
        piece.is_whole = True

    def free(self) -> None:
        """Free the memory where the content has arrived."""
        self.content.untyped_storage().resize_(0)


def pieces_of_layers(model: nn.Module, pieces: Mapping[int, Piece]) -> Iterator[list[Piece]]:
    """Yield the pieces of each layer, and those of each module that is in none.

    Args:
        model: the model.
        pieces: the pieces of its weights, by their keys.
    """
    left = dict(pieces)
    for modules in layers(model):
        keys = [tensor.untyped_storage()._cdata for tensor in ordinary_tensors(modules)]
        if unit := [left.pop(key) for key in keys if key in left]:
            yield unit
    for piece in left.values():
        yield [piece]


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return the content of a storage; writing it does not count as a change of the tensors that have it."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _gather(content: torch.Tensor, part: torch.Tensor, *, async_op: bool = False) -> Any:
    """Put the parts of all ranks into ``content``; return torch's handle of the message, or wait and return None."""
    name = "all_gather_single" if hasattr(distributed, "all_gather_single") else "all_gather_into_tensor"
    return getattr(distributed, name)(content, part, async_op=async_op)
