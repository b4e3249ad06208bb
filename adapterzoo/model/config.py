"""Load the configuration of a model, and refuse what could do harm or cannot be used, before anything else is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterzoo.errors import UserError
from adapterzoo.model.attention import refuse_attention
from adapterzoo.model.files import (
    never_ask,
    refuse_adapter,
    refuse_damaged,
    refuse_gguf,
    refuse_strange_files,
    weight_count,
)
from adapterzoo.model.loading_errors import TRUST_HINT, loading_error

if TYPE_CHECKING:
    from adapterzoo.recipe.schema import ModelSection


def load_config(model: ModelSection, location: str) -> Any:
    """Return the model's configuration.

    Raises:
        UserError: the model cannot be found or loaded, an adapter is beside its weights, or it names code or weights
            elsewhere.
    """
    from transformers import AutoConfig

    never_ask()
    refuse_attention(model)
    refuse_strange_files(location)
    refuse_gguf(location)
    refuse_adapter(location, model.revision)
    refuse_damaged(location)
    trust = model.trust_remote_code
    try:
        config = AutoConfig.from_pretrained(location, revision=model.revision, trust_remote_code=trust)
    except Exception as error:  # values of other types than a configuration has may raise any error
        raise loading_error(model, error) from None
    _refuse_layers(model, location, config)
    if not trust:
        _refuse_kernels(model, config)
    return config


def text_config(config: Any, *, decoder: bool | None = None) -> Any:
    """Return the part of a model's configuration that is of its text; the whole of it if it has no parts.

    Args:
        config: the configuration, of transformers or of a model's own code.
        decoder: whether only the decoder's part is wanted; if None, there must not be another one.
    """
    return config.get_text_config(decoder=decoder) if hasattr(config, "get_text_config") else config


def _refuse_layers(model: ModelSection, location: str, config: Any) -> None:
    """Raise UserError if a configuration asks for more layers than a folder has weights: making them may never end."""
    layers, weights = getattr(config, "num_hidden_layers", None), weight_count(location)
    if isinstance(layers, int) and weights is not None and layers > weights:
        what = f"its config.json asks for {layers:,} layers, and its files hold {weights:,} weights."
        raise UserError.at(f"model {model.name}", what, "They do not belong together: download both again.")


def _refuse_kernels(model: ModelSection, config: Any) -> None:
    """Raise UserError if a configuration names a repository with code for its attention; transformers would run it."""
    kernel = str(getattr(config, "_attn_implementation", None))
    if "/" in kernel:
        what = f"its config.json names code for its attention, '{kernel}', which is not run."
        raise UserError.at(f"model {model.name}", what, TRUST_HINT)
    for name in getattr(config, "sub_configs", ()):
        _refuse_kernels(model, getattr(config, name, None))
