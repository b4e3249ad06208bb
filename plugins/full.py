"""Full fine-tuning: every weight of the model is trained, for comparison with the adapters."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo_plugins._float32 import compute_in

from adapterzoo import CONFIG, AdapterzooError, Context, Method, Options, hookimpl

if TYPE_CHECKING:
    from torch import nn


class Full(Method[Options]):
    """Full fine-tuning: the weights are float32, and the model computes in the base's precision."""

    token_wise = True
    name = "full"
    summary = "trains every weight of the model"
    paper = "https://arxiv.org/abs/1810.04805"
    group = "full"
    options = Options
    learning_rate = 1e-5
    learning_rate_source = "PEFT's method comparison (full-finetuning/llama-3.2-3B-lr_0.00001)"
    quantizations = ("none",)
    changes_base = True

    def wrap(self, model: nn.Module, options: Options, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        # A bfloat16 weight has 8 significant bits, so that most steps at a low learning rate would round to nothing.
        return _in_float32(model).requires_grad_(True)

    def save(self, model: Any, folder: Path) -> None:
        """See :meth:`Method.save`. The folder is a model that transformers loads."""
        model.save_pretrained(str(folder))

    def load(self, model: Any, folder: Path, options: Options, context: Context) -> nn.Module:
        """See :meth:`Method.load`.

        Raises:
            AdapterzooError: there is an adapter in the folder, which transformers would add.
        """
        if (folder / CONFIG).exists():
            raise AdapterzooError(f"{folder / CONFIG} is the configuration of an adapter, and not of a whole model")
        wrapped = _in_float32(model)
        # Load with transformers, because it may have saved the weights under other names. The attention is given, so
        # that the folder cannot choose one.
        settings = {"dtype": "float32", "attn_implementation": "eager", "use_safetensors": True}
        saved = type(model).from_pretrained(str(folder), **settings)
        wrapped.load_state_dict(saved.state_dict())
        return wrapped

    def merge(self, model: nn.Module) -> nn.Module:
        """See :meth:`Method.merge`."""
        return model


def _in_float32(model: nn.Module) -> nn.Module:
    """Make a model's weights float32, and let it compute in the precision that it had."""
    dtype = next(model.parameters()).dtype
    return compute_in(model.float(), dtype)


@hookimpl
def adapterzoo_methods() -> list[Full]:
    """Return the methods of this file."""
    return [Full()]
