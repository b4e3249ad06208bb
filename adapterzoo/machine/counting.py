"""Count what code computes and how much memory it holds, also of tensors without content (on the meta device).

So a training step of a model that fits no machine here can be counted from its configuration alone.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class Counted(TorchDispatchMode):  # type: ignore[misc]  # torch gives its modes no types
    """Counts the bytes of the tensors that are made in a ``with`` block, as long as something holds them.

    Torch's own FlopCounterMode is not used, because it keeps tensors from being freed.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        """Begin at 0 bytes.

        Args:
            known: tensors that are there already and are not counted.
        """
        super().__init__()
        self.held = 0
        """bytes of the tensors that are held now"""
        self.peak = 0
        """highest number of bytes so far"""
        self.operations = 0
        """floating-point operations of the matrix products"""
        self._known = {tensor.untyped_storage()._cdata for tensor in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None) -> Any:
        """Call an operation, and count the memory that its results bring."""
        output = func(*args, **(kwargs or {}))
        if (count := flop_registry.get(func._overloadpacket)) is not None:
            self.operations += count(*args, **(kwargs or {}), out_val=output)
        for tensor in tree_leaves(output):
            if isinstance(tensor, torch.Tensor):
                self._add(tensor.untyped_storage())
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known.add(key)
        self.held += size
        self.peak = max(self.peak, self.held)
        weakref.finalize(storage, self._remove, key, size)

    def _remove(self, key: int, size: int) -> None:
        self._known.discard(key)  # another storage may get its address
        self.held -= size


@contextmanager
def _fused_attention() -> Iterator[None]:
    """Make torch's attention on meta tensors the fused one.

    That is what GPUs and CPUs use; torch itself takes the plain one there, which holds a matrix of all pairs of tokens.
    """
    functional: Any = torch.nn.functional
    plain = functional.scaled_dot_product_attention

    def attend(query: Any, key: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        if not query.is_meta:
            return plain(query, key, value, *args, **kwargs)
        groups = query.shape[1] // key.shape[1]
        # A batch with padding has a mask, with which the fused kernels need keys and values for every head.
        key, value = (tensor.repeat_interleave(groups, 1) if groups > 1 else tensor for tensor in (key, value))
        return torch.ops.aten._scaled_dot_product_flash_attention(query, key, value, 0.0, True)[0]

    # Replace the function itself, because what checkpointing computes again is computed outside of torch's modes.
    functional.scaled_dot_product_attention = attend
    try:
        yield
    finally:
        functional.scaled_dot_product_attention = plain


@contextmanager
def _any_grouped_product() -> Iterator[None]:
    """Let torch multiply groups of rows, each with the weights of its expert, on meta tensors of any dtype.

    torch itself accepts bfloat16 alone there, although CPUs and GPUs compute others too.
    """
    functional: Any = torch.nn.functional
    plain: Any = getattr(functional, "grouped_mm", None)

    def multiply(rows: Any, weights: Any, **kwargs: Any) -> Any:
        if not rows.is_meta or weights.dim() != 3:
            return plain(rows, weights, **kwargs)
        return rows @ weights[0]  # it takes as many operations with any choice of experts

    if plain is not None:
        functional.grouped_mm = multiply
    try:
        yield
    finally:
        if plain is not None:
            functional.grouped_mm = plain


@contextmanager
def counting(known: Iterable[torch.Tensor]) -> Iterator[Counted]:
    """Count the memory and the operations of a ``with`` block.

    Args:
        known: tensors that are there already and are not counted.
    """
    with _fused_attention(), _any_grouped_product(), Counted(known) as counted:
        yield counted
