"""The frozen base model: loaded once per quantization, lent to one cell after the other, always the same."""

from __future__ import annotations

import copy
import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    except (OSError, ValueError) as error:
        raise UserError.at(f"model {model.name}", _first_line(error), _other_names(model.name)) from None


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


def skeleton(config: Any, trust_remote_code: bool = False, vocabulary: int = 0) -> nn.Module:
    """The model without its weights: every layer in place, every parameter on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        made: nn.Module = AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
        make_room(made, vocabulary)
    return made


def device() -> str:
    """Where models run: the GPU if there is one."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


class Base:
    """A loaded base model that no cell can change.

    Every cell wraps the same modules in place. Afterwards each module gets back exactly the attributes it had:
    submodules, parameters, hooks, a replaced ``forward``, the training flag. So the way back is the same for any
    method, PEFT's or not, and none has to know how to take itself off.
    """

    def __init__(self, model: nn.Module, quantization: str, reload: Callable[[], nn.Module]) -> None:
        self.quantization = quantization
        self._reload = reload
        self._keep(model)

    @property
    def model(self) -> Any:
        """The model, to be looked at; :meth:`lend` is for what may change it."""
        if self._model is None:
            self._keep(self._reload())
        return self._model

    def _keep(self, model: nn.Module) -> None:
        model.eval()
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        self._model: nn.Module | None = model
        self._state = [(module, _snapshot(module)) for module in model.modules()]
        self._config = copy.deepcopy(model.config.__dict__)
        self._checksums = _checksums(model)

    @contextmanager
    def lend(self) -> Iterator[nn.Module]:
        """The model, to be wrapped and trained; on leaving it is what it was, whatever happened inside."""
        try:
            yield self.model
        finally:
            self.restore()

    def restore(self) -> None:
        """Undo what a cell did. Weights that were changed are loaded again."""
        for module, state in self._state:
            module.__dict__.clear()
            module.__dict__.update(_snapshot(state))
        config = self.model.config.__dict__
        config.clear()
        config.update(copy.deepcopy(self._config))
        for parameter in self.model.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        if _checksums(self.model) != self._checksums:
            self.renew()

    def renew(self) -> None:
        """Have the weights loaded again: after a merge, which also changes what quantized layers keep beside them.

        When they are next needed, not now: whoever changed them still holds them, and there may be no room for two.
        """
        self._model, self._state = None, []

    @property
    def parameters(self) -> int:
        """How many parameters the base has; a 4-bit layer holds two in a byte."""
        stored: int = sum(parameter.numel() for parameter in self.model.parameters())
        return stored + sum(_packed(module) for module in self.model.modules())


def load(model: ModelSection, location: str, quantization: str, max_length: int, vocabulary: int = 0) -> Base:
    """Load the base model with one quantization.

    Args:
        vocabulary: how many embeddings the tokenizer needs; the model gets more where it has fewer.

    Raises:
        UserError: transformers cannot load it.
    """

    def fresh() -> nn.Module:
        loaded = _load(model, location, quantization, max_length)
        make_room(loaded, vocabulary)
        return loaded

    return Base(fresh(), quantization, fresh)


def _load(model: ModelSection, location: str, quantization: str, max_length: int) -> nn.Module:
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
        raise UserError.at(f"model {model.name}", _first_line(error), _other_names(model.name)) from None
    if quantization == "nf4":
        _keep_unpacked(loaded)
    head = loaded.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous)
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


def _snapshot(module: nn.Module | dict[str, Any]) -> dict[str, Any]:
    """A module's attributes, with the dictionaries among them (children, parameters, hooks) copied."""
    attributes = module if isinstance(module, dict) else module.__dict__
    return {name: copy.copy(value) if isinstance(value, dict) else value for name, value in attributes.items()}


def _checksums(model: nn.Module) -> dict[str, int]:
    """A number for each tensor that changes when its bits do; computed where the tensor is."""
    import torch

    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    sums = {}
    for name, tensor in tensors.items():
        if tensor.is_meta:
            continue
        kind = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()]
        sums[name] = int(tensor.detach().contiguous().view(kind).sum(dtype=torch.int64))
    return sums


def _packed(module: nn.Module) -> int:
    """How many more parameters a layer stands for than its weight has elements."""
    state = getattr(getattr(module, "weight", None), "quant_state", None)
    return 0 if state is None else state.shape.numel() - module.weight.numel()


def _first_line(error: Exception) -> str:
    return f"cannot be loaded: {str(error).strip().splitlines()[0].rstrip('.')}."


def _other_names(name: str) -> str:
    hint = did_you_mean(name, BUNDLED)
    offline = " HF_HUB_OFFLINE is set, so no hub was asked." if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    exists = "" if Path(name).exists() else f" There is no such folder here.{offline} Bundled: {', '.join(BUNDLED)}."
    return (hint if hint.startswith("Did") else "") + exists
