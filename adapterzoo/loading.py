"""Models out of folders, hubs and packages: found, described, loaded; and why one cannot be had."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.bundled import BUNDLED, model_folder
from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.tokens.padding import make_room

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapterzoo.recipe import ModelSection

# Above this length the memory of eager attention, quadratic in it, costs more than SDPA's overhead on a CPU.
EAGER_LENGTH = 512
# Bytes at the beginning and the end of a file of weights.
EDGE = 2**20


def locate(name: str, say: Callable[[str], None] = lambda message: None) -> str:
    """What to give transformers for a model's name: a bundled model's folder, or the name as it is."""
    return str(model_folder(name, say)) if name in BUNDLED else name


def load_config(model: ModelSection, location: str) -> Any:
    """The model's configuration.

    Raises:
        UserError: there is no such model, or it cannot be had.
    """
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(location, revision=model.revision, trust_remote_code=model.trust_remote_code)
    except (OSError, ValueError, ImportError) as error:
        raise refused(model, error) from None


def fingerprint(location: str, config: Any) -> str | None:
    """Which weights a name stands for: the commit of a hub id, else the sizes and edges of the files in a folder.

    Not their whole content, which takes minutes for a large model; training changes every part of it.
    """
    if not Path(location).is_dir():
        return getattr(config, "_commit_hash", None)
    digest = hashlib.sha256()
    for path in sorted(Path(location).glob("*.safetensors")):
        with path.open("rb") as file:
            digest.update(f"{path.name} {path.stat().st_size}\0".encode() + file.read(EDGE))
            file.seek(max(0, path.stat().st_size - EDGE))
            digest.update(file.read(EDGE))
    return digest.hexdigest()


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
        raise refused(model, error) from None
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
        UserError: transformers cannot load it.
    """
    import torch
    from transformers import AutoModelForCausalLM

    where = device()
    dtype = getattr(torch, model.dtype)
    attention = model.attention
    if attention == "auto":
        # SDPA's backward is slow on a CPU in bfloat16 at short lengths.
        short = where == "cpu" and dtype != torch.float32 and max_length <= EAGER_LENGTH
        attention = "eager" if short else "sdpa"
    try:
        loaded: nn.Module = AutoModelForCausalLM.from_pretrained(
            location,
            revision=model.revision,
            dtype=dtype,
            attn_implementation=attention,
            trust_remote_code=model.trust_remote_code,
            use_safetensors=True,
            device_map={"": where},
            **_quantization(quantization, dtype, model.double_quantization),
        )
    except (OSError, ValueError, ImportError) as error:
        raise refused(model, error) from None
    if quantization == "nf4":
        _keep_unpacked(loaded)
    head = loaded.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous)
    make_room(loaded, vocabulary)
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


def _keep_unpacked(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking 4-bit weights in place on the first evaluation on a CPU.

    The backward pass of later training would read the repacked weights as if they were not: wrong gradients from
    the first step, and no error.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def refused(model: ModelSection, error: Exception) -> UserError:
    """What to tell a person about a model, or its tokenizer, that cannot be had."""
    text = str(error)
    reason = (text.strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    cure = _other_names(model.name).strip()
    if "gated repo" in text:
        reason = "it is gated: its owners ask who has it"
        cure = f"Accept their terms at https://huggingface.co/{model.name}, then log in (hf auth login)."
    elif "trust_remote_code" in text:
        reason = "it comes with code of its own, which is not run unasked"
        cure = "If you trust its authors: model.trust_remote_code: true."
    elif model.trust_remote_code:
        cure = f"Its own code may be made for another version of transformers. {cure}".strip()
    return UserError.at(f"model {model.name}", f"cannot be loaded: {reason}.", cure)


def _other_names(name: str) -> str:
    hint = did_you_mean(name, BUNDLED)
    offline = " HF_HUB_OFFLINE is set, so no hub was asked." if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    exists = "" if Path(name).exists() else f" There is no such folder here.{offline} Bundled: {', '.join(BUNDLED)}."
    return (hint if hint.startswith("Did") else "") + exists
