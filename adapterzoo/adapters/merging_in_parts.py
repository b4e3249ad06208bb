"""Merge an adapter into one part of its base model after the other, so that only a part is without quantization."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from adapterzoo.adapters.finding import Adapter, Say
from adapterzoo.adapters.loading import apply_adapter
from adapterzoo.errors import AdapterzooError, UserError, failure_reason
from adapterzoo.methods.registry import registry
from adapterzoo.quantizations.contract import NONE
from adapterzoo.terminal import Progress

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.model.base import Base
    from adapterzoo.model.parts import Part

T = TypeVar("T")
USE_ADAPTER = "Use the adapter as it is."


class NotInPartsError(AdapterzooError):
    """Raised if a method cannot merge an adapter of which only a part has content; the message is its reason."""


def of_all_parts(
    adapter: Adapter, base: Base, say: Say, use: Callable[[Iterator[Part]], T], *, precise: bool = False
) -> T:
    """Return what a function makes of all parts of a base model without quantization, which it gives to merge_part.

    If the adapter's method cannot merge parts, the function is called again, with the whole model as the only part.

    Args:
        adapter: the adapter.
        base: its base model, which is not changed.
        say: is called with a message about the method.
        use: the function.
        precise: whether the parts are in float32.
    """
    from adapterzoo.model.parts import parts

    label, dtype = adapter.result.label, adapter.recipe.model.dtype

    def counted(pieces: Iterator[Part]) -> Iterator[Part]:
        progress: Progress | None = None
        for part in pieces:
            yield part
            progress = progress or Progress("parts of the model merged", part.total, label)
            progress.add()

    with base.borrow() as model:
        try:
            return use(counted(parts(model, base.quantization, dtype, precise=precise)))
        except NotInPartsError as error:
            say(f"{label}: the whole model has to be in memory, because its method cannot merge parts of it: {error}")
        return use(parts(model, base.quantization, dtype, precise=precise, whole=True))


def merge_part(adapter: Adapter, part: Part) -> nn.Module:
    """Put an adapter on a part of its base model, and merge it; weights outside of the part have no content.

    Raises:
        NotInPartsError: it fails, and the part is not the whole model, which the method may need.
        UserError: it fails with the whole model.
    """
    import torch

    try:
        with torch.no_grad():
            wrapped = apply_adapter(adapter, part.model, NONE)
            part.leave_out(wrapped)
            return registry()[adapter.result.method or ""].merge(wrapped)
    except Exception as error:  # a method may be anybody's code
        if part.total > 1:
            raise NotInPartsError(failure_reason(error)) from None
        if isinstance(error, UserError):
            raise
        what = f"cannot be merged: {failure_reason(error)}."
        raise UserError.at(f"--method {adapter.result.label}", what, USE_ADAPTER) from None
