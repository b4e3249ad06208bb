"""What the variants of LoRA share that begin by moving a part of the base's weights into the adapter.

Such an adapter fits its own changed base alone. Saved is the difference to where it began, which is a LoRA of twice
the rank on the base as it was: ``B·A - B0·A0 = [B, -B0]·[A; A0]``. Plain PEFT loads it as any LoRA.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo_plugins.lora import Lora, LoraOptions

from adapterzoo import Context

if TYPE_CHECKING:
    import torch
    from torch import nn


class MutatingLora(Lora):
    """A LoRA that changes the base when it is put on."""

    changes_base = True
    # A quantized weight cannot give up a part of itself.
    quantizations = ("none",)
    mergeable_into = ("none",)

    def wrap(self, model: nn.Module, options: LoraOptions, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        wrapped = super().wrap(model, options, context)
        wrapped.began = {name: tensor.detach().clone() for name, tensor in _state(wrapped).items()}
        return wrapped

    def save(self, model: Any, folder: Path) -> None:
        """See :meth:`Method.save`."""
        import torch
        from safetensors.torch import save_file

        config = copy.copy(model.peft_config["default"])
        config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
        config.init_lora_weights, config.inference_mode = True, True
        tensors = {}
        for name, now in _state(model).items():
            before, down = model.began[name], ".lora_A." in name
            tensors[name] = torch.cat([now, before if down else -before], dim=0 if down else 1).contiguous()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(folder))


def _state(model: Any) -> dict[str, torch.Tensor]:
    from peft import get_peft_model_state_dict

    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return state
