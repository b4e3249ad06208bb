"""The base class of LoRA variants that first move a part of the base's weights into the adapter.

Such an adapter fits only the changed base. Therefore the trained update minus the initial one is saved: a LoRA of twice
the rank that fits the unchanged base, ``B·A - B0·A0 = [B, -B0]·[A; A0]``. Plain PEFT loads it like any LoRA.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo_plugins.lora import Lora, LoraOptions

from adapterzoo import Context
from adapterzoo.methods.peft import tidy_config

if TYPE_CHECKING:
    import torch
    from torch import nn


class MutatingLora(Lora):
    """A LoRA that changes the base's weights when it wraps a model."""

    options = LoraOptions
    changes_base = True
    # After a part of a weight has moved into the adapter, the rest of it cannot be stored in quantized form.
    quantizations = ("none",)
    mergeable_into = ("none",)

    def wrap(self, model: nn.Module, options: LoraOptions, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        wrapped = super().wrap(model, options, context)
        wrapped.initial_state = {name: tensor.detach().clone() for name, tensor in _state(wrapped).items()}
        return wrapped

    def save(self, model: Any, folder: Path) -> None:
        """See :meth:`Method.save`."""
        import torch
        from safetensors.torch import save_file

        config = copy.copy(model.peft_config["default"])
        config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
        config.init_lora_weights, config.inference_mode = True, True
        tensors = {}
        for name, tensor in _state(model).items():
            initial, is_a = model.initial_state[name], ".lora_A." in name
            if not is_a and ".lora_B." not in name:  # a new head, which is saved whole
                tensors[name] = tensor.contiguous()
                continue
            tensors[name] = torch.cat([tensor, initial if is_a else -initial], dim=0 if is_a else 1).contiguous()
        folder.mkdir(parents=True, exist_ok=True)
        save_file(tensors, folder / "adapter_model.safetensors", metadata={"format": "pt"})
        config.save_pretrained(str(folder))
        tidy_config(model, config, folder)


def _state(model: Any) -> dict[str, torch.Tensor]:
    """Return the adapter's tensors, by the names under which PEFT saves them."""
    from peft import get_peft_model_state_dict

    state: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
    return state
