"""Compare the tensors of a base model before and after a method has used it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo.model.base_state import parts

if TYPE_CHECKING:
    import torch


def saved_base(adapter: Path, base: dict[str, torch.Tensor]) -> list[str]:
    """Return the names of saved tensors that are equal to a matrix of the base."""
    from safetensors.torch import load_file

    saved = {name: tensor for file in adapter.rglob("*.safetensors") for name, tensor in load_file(file).items()}
    matrices = [tensor for tensor in base.values() if tensor.dim() > 1]
    return sorted(name for name, tensor in saved.items() if any(same_tensor(matrix, tensor) for matrix in matrices))


def same_tensor(before: torch.Tensor, after: torch.Tensor) -> bool:
    """Tell whether two tensors are equal in dtype, shape and every value."""
    if type(before) is not type(after) and (parts(before) or parts(after)):
        return False
    if parts(before):  # a quantized tensor cannot be compared itself
        return all(map(same_tensor, parts(before), parts(after)))
    if before.dtype != after.dtype or before.shape != after.shape:
        return False
    return bool(before.equal(after.detach().to(before.device)))
