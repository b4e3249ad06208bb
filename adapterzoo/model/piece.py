"""A weight of the base model that is divided among ranks."""

from __future__ import annotations

import torch
from torch import distributed

from adapterzoo.machine import ranks

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
        _gather(self.part.new_empty(len(self.part) * ranks.count()), self.part)

    def take_apart(self, *, written: bool) -> None:
        """Free the content, whichever it is; keep what has changed."""
        if self.is_replaced:
            self.storage.resize_(0)
            self._divide()
        elif self.is_whole:
            if written:
                self.keep_changes()
            self.storage.resize_(0)
        self.is_whole = False

    def keep_changes(self) -> None:
        """Take this rank's part out of the content once more."""
        self.part.copy_(_bytes(self.storage)[len(self.part) * ranks.number() :][: len(self.part)])


def _bytes(storage: torch.UntypedStorage) -> torch.Tensor:
    """Return the content of a storage; writing it does not count as a change of the tensors that have it."""
    return torch.empty(0, dtype=torch.uint8, device=storage.device).set_(storage)


def _gather(content: torch.Tensor, part: torch.Tensor) -> None:
    name = "all_gather_single" if hasattr(distributed, "all_gather_single") else "all_gather_into_tensor"
    getattr(distributed, name)(content, part)
