"""Divide the weights of a base model among ranks, which put a layer together whenever something reads it.

Each rank keeps an equal part of the bytes of every large weight. A weight that nobody reads has a shape, and no
content. Every operation of torch is looked at: before one of them reads a weight, the ranks put the weights of its
layer together, and take apart the layer before. So whoever computes with the model, trains it, wraps it or looks at its
weights sees ordinary tensors, and needs to know nothing of this. torch's own FSDP2 replaces the parameters by others,
so that no method could be put onto a model that is divided already.

The ranks need not do the same: before a layer is put together, they agree which one is next, and a rank that needs
nothing gives its parts to the others. While they compute with a layer, the next one is on its way already: see
:mod:`adapterzoo.model.ahead`.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

from adapterzoo.machine import ranks
from adapterzoo.model.ahead import NOTHING, Ahead
from adapterzoo.model.base_state import parts
from adapterzoo.model.layers import ordinary_tensors
from adapterzoo.model.piece import Piece, pieces_of_layers

MIN_BYTES = 1024
"""size of the smallest weight that is divided; for smaller ones a message would take longer than it saves memory"""
ONE_AT_A_TIME = "HF_DEACTIVATE_ASYNC_LOAD"
"""variable by which transformers reads a weight only when it is needed"""
aten = torch.ops.aten
UNREAD = {
    aten.alias.default, aten.detach.default, aten.view.default, aten.empty_like.default, aten.zeros_like.default,
    aten.ones_like.default, aten.new_empty.default, aten.new_zeros.default, aten.new_ones.default,
}  # fmt: skip
"""operations that read the shape of a tensor alone"""

_in_use: list[Divided] = []


class Divided(TorchDispatchMode):  # type: ignore[misc]  # torch gives no types for it
    """The divided weights of a model; in a ``with`` block, operations of torch find them whole."""

    def __init__(self) -> None:
        super().__init__()
        self._forget()

    def _forget(self) -> None:
        self._pieces: dict[int, Piece] = {}
        """identity of the memory of a tensor -> its piece; those that are trained are left out, and stay whole"""
        self._owners: dict[int, Piece] = {}
        """identity of a tensor -> its piece"""
        self._units: list[list[Piece]] = []
        """for each layer its pieces"""
        self._whole = list[int]()
        """numbers of the layers that are whole at the moment"""
        self._written = set[int]()
        """numbers of the layers that were written to since they were put together"""
        self._ahead = Ahead()

    @contextmanager
    def used(self) -> Iterator[None]:
        """Put weights together when something reads them in a ``with`` block, also for ranks that need more of them."""
        _in_use.append(self)
        try:
            with ranks.helping(self._help_all), self:
                yield
        finally:
            _in_use.remove(self)
            self._ahead.drop()

    @contextmanager
    def loading(self) -> Iterator[None]:
        """Forget what was divided, and in a ``with`` block divide each parameter as soon as a module gets it."""
        self._forget()
        hook = register_module_parameter_registration_hook(self._registered)
        try:
            # transformers would first take the memory of a GPU that all weights together need.
            with (
                mock.patch.dict(os.environ, {ONE_AT_A_TIME: "1"}),
                mock.patch("transformers.modeling_utils.caching_allocator_warmup", create=True),
                self.used(),
            ):
                yield
        finally:
            hook.remove()

    def _registered(self, module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None and not parameter.is_meta:
            parameter.requires_grad_(False)
            for tensor in ordinary_tensors([parameter]):
                self._add(tensor)

    def take(self, model: nn.Module) -> None:
        """Divide the parameters of a model that are not divided yet, and find its layers.

        Other tensors of a model, such as buffers, stay whole: each rank may change its own.
        """
        self.rest()
        for tensor in ordinary_tensors(model.parameters()):
            self._add(tensor)
        self._units = list(pieces_of_layers(model, self._pieces))
        for number, unit in enumerate(self._units):
            for piece in unit:
                piece.unit = number
        self._ahead = Ahead(self._units)

    def _add(self, tensor: torch.Tensor) -> None:
        if tensor.untyped_storage()._cdata not in self._pieces and tensor.nbytes >= MIN_BYTES:
            piece = Piece(tensor, len(self._units))
            self._units.append([piece])
            self._pieces[piece.key] = self._owners[id(tensor)] = piece

    def rest(self) -> None:
        """Take everything apart, also what was trained."""
        self._ahead.allow_all()
        for unit in self._units:
            for piece in unit:
                self._take_apart(piece, written=True)
        self._whole.clear()
        self._written.clear()

    def find(self, tensor: torch.Tensor) -> Piece | None:
        """Return the piece of a tensor; None if it is whole on every rank."""
        if tensor.is_meta or tensor.layout != torch.strided:
            return None
        return self._pieces.get(tensor.untyped_storage()._cdata)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do an operation, with the layers whole whose weights it reads."""
        kwargs = kwargs or {}
        if func is aten.set_.source_Storage_storage_offset and args[1].nbytes() == 0 and math.prod(args[3]) > 0:
            raise RuntimeError("a tensor was copied while its content was with other ranks")
        if func not in UNREAD:
            found = set[int]()
            self._find_units((args, tuple(kwargs.values())), found)
            if found:
                self._put_together(sorted(found))
                self._find_units(_changed(func, args, kwargs), self._written)
        return func(*args, **kwargs)

    def _find_units(self, values: Sequence[Any], found: set[int]) -> None:
        """Add the numbers of the layers that some arguments of an operation belong to."""
        for value in values:
            if isinstance(value, torch.Tensor):
                if own := parts(value):
                    self._find_units(own, found)
                elif (piece := self.find(value)) is not None:
                    found.add(piece.unit)
            elif isinstance(value, (list, tuple)):
                self._find_units(value, found)

    def _put_together(self, numbers: Sequence[int]) -> None:
        """Make layers whole, and put away those that are whole and not among them."""
        missing = [number for number in numbers if number not in self._whole]
        for number in [number for number in self._whole if missing and number not in numbers]:
            self._put_away(number)
        for number in missing:
            while (chosen := self._ahead.agree(number)) != number:
                self._give(chosen)
            if self._ahead.number == number:
                self._ahead.use()
            else:
                self._gather(number)
            self._whole.append(number)
            self._ahead.begin()

    def _put_away(self, number: int) -> None:
        """Take a layer apart, except what is trained of it."""
        for piece in self._units[number]:
            if piece.tensor.requires_grad:
                self._pieces.pop(piece.key, None)
            else:
                self._take_apart(piece, written=number in self._written)
        self._whole.remove(number)
        self._written.discard(number)

    def _gather(self, number: int) -> None:
        """Make a layer whole that is not on its way."""
        self._keep_replaced(self._units[number])
        for piece in self._units[number]:
            piece.put_together()

    def _keep_replaced(self, pieces: Iterable[Piece]) -> None:
        """Take tensors apart that something has given another content, except those that are trained."""
        for piece in pieces:
            if piece.is_replaced and not piece.tensor.requires_grad:
                self._take_apart(piece, written=False)

    def _take_apart(self, piece: Piece, *, written: bool) -> None:
        self._pieces.pop(piece.key, None)
        if piece.unit == self._ahead.number:
            self._ahead.wait()  # its memory may be written at this moment
        piece.take_apart(written=written)
        self._pieces[piece.key] = piece

    def _help_all(self) -> None:
        """Give this rank's parts to the others until none of them needs more."""
        with _disable_current_modes():  # what is sent is not what somebody reads
            while (chosen := self._ahead.agree(NOTHING)) != NOTHING:
                self._give(chosen)
            self._keep_changes()

    def _keep_changes(self) -> None:
        """Take apart what this rank holds, now that all ranks have come here.

        So its parts have what it has changed, which others may read next. And all ranks may change a layer next: one
        that still held it whole would do so at once, and then give changed parts to those that have yet to change it.
        """
        for number in list(self._whole):
            self._put_away(number)
        self._keep_replaced(self._owners.values())

    def _give(self, number: int) -> None:
        """Give the other ranks this one's parts of a layer that it does not need itself."""
        if self._ahead.number == number:
            self._ahead.drop()
        else:
            for piece in self._units[number]:
                piece.give()
        self._ahead.begin()

    def own_part(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return this rank's part of a tensor that is divided, and the tensor itself if it is not."""
        piece = self._owners.get(id(tensor)) or self.find(tensor)
        if piece is None or (piece.tensor.requires_grad and (piece.is_whole or piece.is_replaced)):
            return tensor
        if piece.is_replaced:
            self._take_apart(piece, written=False)
        elif piece.is_whole and piece.unit in self._written:
            piece.keep_changes()
        return piece.part

    def part_bytes(self) -> int:
        """Return the size of this rank's parts."""
        return sum(len(piece.part) for unit in self._units for piece in unit)


def own_part(tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor that is divided at the moment, and the tensor itself if it is not."""
    for divided in _in_use:
        tensor = divided.own_part(tensor)
    return tensor


def _changed(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Any]:
    """Return the arguments of an operation that it writes to."""
    arguments = func._schema.arguments
    named = {**{argument.name: value for argument, value in zip(arguments, args, strict=False)}, **kwargs}
    return [named.get(argument.name) for argument in arguments if argument.is_write]
