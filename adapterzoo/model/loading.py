"""Load models: their configuration, their layers without weights, their weights; and say why one cannot be had."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.model.bundled import BUNDLED
from adapterzoo.model.files import refuse_adapter, weight_names
from adapterzoo.model.padding import make_room
from adapterzoo.model.row_attention import add_row_attention

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapterzoo.recipe.schema import ModelSection

# Above this length the memory of eager attention, quadratic in it, costs more than SDPA's overhead on a CPU.
EAGER_LENGTH = 512
MAX_KEYS_SHOWN = 3  # further keys of a kind are only counted
# Attention masks that older versions of transformers saved with the weights; they are made anew.
LEFTOVERS = re.compile(r"\.attn(\.attention)?\.(masked_)?bias$")


def load_config(model: ModelSection, location: str) -> Any:
    """Return the model's configuration.

    Raises:
        UserError: there is no such model, it cannot be had, or an adapter lies beside its weights.
    """
    from transformers import AutoConfig

    refuse_adapter(location, model.revision)
    try:
        return AutoConfig.from_pretrained(location, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise loading_error(model, error) from None


def check_weights(model: ModelSection, location: str, config: Any) -> None:
    """Check that a folder holds every weight of the model and no other, without reading what they are.

    A model of the hub is looked at when its weights are loaded: they may have to be downloaded for it.

    Raises:
        UserError: transformers would draw missing weights at random, or leave some unused.
    """
    if Path(location).is_dir() and getattr(config, "quantization_config", None) is None:
        _from_pretrained(model, location, device_map={"": "meta"})


def _from_pretrained(model: ModelSection, location: str, **settings: Any) -> nn.Module:
    """Return what transformers loads.

    Raises:
        UserError: it cannot load it, or its weights are not whole.
    """
    from transformers import AutoModelForCausalLM

    try:
        loaded, keys = AutoModelForCausalLM.from_pretrained(
            location,
            revision=model.revision,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
            # Reported, like the others, in place of a traceback that says to look at a table.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **settings,
        )
    except Exception as error:  # damaged files, and code that comes with a model, may raise anything
        if missing := _missing_parts(model, location, error):
            raise UserError(*weight_problems(model.name, {"missing_keys": missing})) from None
        raise loading_error(model, error) from None
    if problems := weight_problems(model.name, keys):
        raise UserError(*problems)
    whole: nn.Module = loaded
    return whole


def weight_problems(name: str, keys: Mapping[str, Any], added: Sequence[str] = ()) -> list[Problem]:
    """Return what is wrong with a model's weights, by transformers' account of loading them.

    What transformers ties or computes itself is not in that account.

    Args:
        name: of the model, for the message.
        keys: ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys`` (each with both shapes), those there are.
        added: modules that a task adds to the model, a new head for instance: their weights may be missing.
    """
    heads = tuple(f"{module}." for module in added)
    missing = [key for key in keys.get("missing_keys", ()) if not key.startswith(heads)]
    unexpected = [key for key in keys.get("unexpected_keys", ()) if not LEFTOVERS.search(key)]
    mismatched = keys.get("mismatched_keys", ())
    shapes = [f"{key} {tuple(there)} where {tuple(wanted)} belongs" for key, there, wanted in mismatched]
    found = (
        (missing, "lacks weights of the model, which would be drawn at random"),
        (unexpected, "holds weights that the model has no place for"),
        (shapes, "holds weights of other shapes than the model's"),
    )
    hint = "Its config.json and its weights do not belong together, or a file is damaged: get both anew."
    return [Problem(f"model {name}", f"{what}: {_some(keys)}.", hint) for keys, what in found if keys]


def _missing_parts(model: ModelSection, location: str, error: Exception) -> list[str]:
    """Return the weights that a folder lacks where several are put together into one of the model's.

    transformers fuses the experts of a mixture while it loads them; where one is missing, it names none.
    """
    if "conversion of the weights" not in str(error):
        return []
    try:
        from transformers.core_model_loading import revert_weight_conversion
        from transformers.utils import cached_file

        whole: Any = skeleton(model, load_config(model, location))
        expected = revert_weight_conversion(whole, whole.state_dict()).keys() - {*whole.all_tied_weights_keys}
        folder = Path(cached_file(location, "config.json", revision=model.revision)).parent
        return sorted(expected - weight_names(folder))
    except Exception:  # then the error says what it can: this only names weights
        return []


def _some(keys: Sequence[str]) -> str:
    shown = sorted(keys)[:MAX_KEYS_SHOWN]
    more = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")


def skeleton(model: ModelSection, config: Any, vocabulary: int = 0) -> nn.Module:
    """The model without its weights: every layer in place, every parameter on the meta device.

    Raises:
        UserError: transformers has no such architecture, or the model's own code cannot be run.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        with torch.device("meta"):
            made: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    except Exception as error:  # code that comes with a model may raise anything
        raise loading_error(model, error) from None
    make_room(made, vocabulary)
    return made


def device() -> str:
    """Where models run: the GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_weights(
    model: ModelSection, location: str, quantization: str, max_length: int, vocabulary: int = 0
) -> nn.Module:
    """A model with its weights, on the device where it will run.

    Raises:
        UserError: transformers cannot load it, or its weights are not whole.
    """
    import torch

    where = device()
    dtype = getattr(torch, model.dtype)
    attention: str | None = model.attention
    if attention == "auto":
        # SDPA's backward is slow on a CPU in bfloat16 at short lengths. Else transformers takes it where there is one.
        short = where == "cpu" and dtype != torch.float32 and max_length <= EAGER_LENGTH
        attention = "eager" if short else None
    loaded = _from_pretrained(
        model,
        location,
        dtype=dtype,
        attn_implementation=attention,
        device_map={"": where},
        **_quantization(quantization, dtype, model.double_quantization),
    )
    _settle_quantization(loaded)
    head = loaded.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous)
    make_room(loaded, vocabulary)
    add_row_attention(loaded)
    return loaded


def _quantization(quantization: str, dtype: torch.dtype, double: bool) -> dict[str, Any]:
    from transformers import BitsAndBytesConfig

    if quantization == "none":
        return {}
    if quantization == "int8":
        return {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=double,
            bnb_4bit_compute_dtype=dtype,
        )
    }


def _contiguous(head: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """For a slice of positions torch copies the head's whole weight once for each row of the batch."""
    return (arguments[0].contiguous(), *arguments[1:])


def _settle_quantization(model: nn.Module) -> None:
    """Bring quantized layers into the state that they keep, so that a forward pass changes nothing in them.

    bitsandbytes repacks 4-bit weights in place on the first evaluation on a CPU. The backward pass of later training
    would read the repacked weights as if they were not: wrong gradients from the first step, and no error. 8-bit
    layers move their scales at the first forward pass.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
        if hasattr(module, "init_8bit_state"):
            module.init_8bit_state()


def loading_error(model: ModelSection, error: Exception) -> UserError:
    """What to tell a person about a model, or its tokenizer, that cannot be had."""
    text = str(error)
    reason = (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    hint = _other_names(model.name).strip()
    if "gated repo" in text:
        reason = "it is gated: its owners ask who has it"
        hint = f"Accept their terms at https://huggingface.co/{model.name}, then log in (hf auth login)."
    elif "trust_remote_code" in text:
        reason = "it comes with code of its own, which is not run unasked"
        hint = "If you trust its authors: model.trust_remote_code: true."
    elif model.trust_remote_code:
        hint = f"Its own code may be made for another version of transformers. {hint}".strip()
    return UserError.at(f"model {model.name}", f"cannot be loaded: {reason}.", hint)


def _other_names(name: str) -> str:
    hint = did_you_mean(name, BUNDLED)
    offline = " HF_HUB_OFFLINE is set, so no hub was asked." if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    exists = "" if Path(name).exists() else f" There is no such folder here.{offline} Bundled: {', '.join(BUNDLED)}."
    return (hint if hint.startswith("Did") else "") + exists
