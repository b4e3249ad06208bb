"""Say which attention kernels this machine does not have."""

from __future__ import annotations

from typing import TYPE_CHECKING

from adapterzoo.errors import UserError

if TYPE_CHECKING:
    from adapterzoo.recipe.schema import ModelSection

ON_GPUS = ("flash_attention_2", "flex_attention")
"""kernels that run, or can be trained with, on GPUs alone"""


def refuse_attention(model: ModelSection) -> None:
    """Raise UserError if the recipe's attention kernel cannot be used here."""
    if model.attention not in ON_GPUS:
        return
    import torch
    from transformers.utils import is_flash_attn_2_available

    if not torch.cuda.is_available():
        raise _refused(f"'{model.attention}' needs a GPU, and torch finds none.", "Set model.attention: auto.")
    if model.attention == "flash_attention_2":
        if not is_flash_attn_2_available():
            hint = "Try: pip install flash-attn; or set model.attention: auto, which has torch's own FlashAttention."
            raise _refused("'flash_attention_2' needs the package flash-attn.", hint)
        if model.dtype == "float32":
            raise _refused("'flash_attention_2' cannot compute in float32.", "Set model.dtype: bfloat16.")


def _refused(what: str, hint: str) -> UserError:
    return UserError.at("model.attention", what, hint)
