"""Load a model with its weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import UserError
from adapterzoo.machine import gpu, ranks
from adapterzoo.machine.memory import giving_back_freed_memory
from adapterzoo.model.config import load_config
from adapterzoo.model.files import weight_names
from adapterzoo.model.head import head_names, mark_head
from adapterzoo.model.loading_errors import loading_error, weight_problems
from adapterzoo.model.offload_folder import OffloadFolder
from adapterzoo.model.padding import add_embeddings
from adapterzoo.model.placing import DISK
from adapterzoo.model.quantization import finish, loading_arguments, saved_quantization
from adapterzoo.model.row_attention import add_row_attention
from adapterzoo.model.skeleton import class_arguments, configured, model_class, renamed_base, skeleton
from adapterzoo.quantizations.contract import NONE, LoadSettings
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.tasks.examples import CAUSAL_FORM, ModelForm

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.recipe.schema import ModelSection

# Up to this many tokens, eager attention in bfloat16 is faster than SDPA on a CPU. For longer rows, eager attention
# takes more memory.
MAX_EAGER_LENGTH = 512


def check_weights(model: ModelSection, location: str, config: Any, form: ModelForm = CAUSAL_FORM) -> None:
    """Check that a folder holds every weight of the model and no other, without reading their values.

    A model of the hub is only checked when it is loaded, because its weights may have to be downloaded first.

    Raises:
        UserError: weights are missing (transformers would use random numbers), or the model does not have some of them.
    """
    if Path(location).is_dir() and saved_quantization(config) is None:
        _from_pretrained(model, location, form, device_map={"": "meta"})


def _from_pretrained(model: ModelSection, location: str, form: ModelForm, **settings: Any) -> nn.Module:
    """Return the model that transformers loads.

    Raises:
        UserError: transformers cannot load the model, or its weights are not complete.
    """
    import torch

    if form.model_class != CAUSAL_FORM.model_class:
        config = load_config(model, location)
        settings |= {"config": configured(config, form), "key_mapping": renamed_base(config, form) or None}
        settings |= class_arguments(config, form)
    try:
        # A new head begins with random numbers: they must be the same at each loading of the base model.
        with torch.random.fork_rng():
            torch.manual_seed(0)
            loaded, keys = model_class(form).from_pretrained(
                location,
                revision=model.revision,
                trust_remote_code=model.trust_remote_code,
                use_safetensors=True,
                # weight_problems reports these; without this option transformers raises an error without their names.
                ignore_mismatched_sizes=True,
                output_loading_info=True,
                **settings,
            )
    except Exception as error:  # damaged files and a model's own code may raise any error
        if missing := _missing_parts(model, location, error):
            raise UserError(*weight_problems(model.name, {"missing_keys": missing})) from None
        raise loading_error(model, error) from None
    other_head = form.new_head or form.model_class == "AutoModel"
    if mapping := settings.get("key_mapping"):
        # transformers would save the weights under their old names, and then not find them when it loads them.
        loaded._weight_conversions = [
            conversion for conversion in loaded._weight_conversions if conversion.source_patterns[0] not in mapping
        ]
    if problems := weight_problems(model.name, keys, loaded if other_head else None):
        raise UserError(*problems)
    checked: nn.Module = loaded
    return checked


def _missing_parts(model: ModelSection, location: str, error: Exception) -> list[str]:
    """Return the weights that a folder lacks, if transformers failed to join several weights into one.

    transformers joins the experts of a mixture while it loads them, and does not name an expert that is missing.
    """
    if "conversion of the weights" not in str(error):
        return []
    try:
        from transformers.core_model_loading import revert_weight_conversion
        from transformers.utils import cached_file

        empty: Any = skeleton(model, load_config(model, location))
        expected = revert_weight_conversion(empty, empty.state_dict()).keys() - {*empty.all_tied_weights_keys}
        folder = Path(cached_file(location, "config.json", revision=model.revision)).parent
        return sorted(expected - weight_names(folder))
    except Exception:  # the caller then reports transformers' own error
        return []


def device() -> str:
    """Return the device on which models run: the GPU if there is one; with several ranks, that of this one."""
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    return f"cuda:{torch.cuda.current_device()}" if ranks.count() > 1 else "cuda"


def attention(model: ModelSection, max_length: int) -> str | None:
    """Return the attention implementation of a model whose longest row has so many tokens; None for transformers' own.

    SDPA's backward pass is slow on a CPU in bfloat16 for short rows.
    """
    if model.attention != "auto":
        return model.attention
    short = device() == "cpu" and model.dtype != "float32" and max_length <= MAX_EAGER_LENGTH
    return "eager" if short else None


def load_weights(
    model: ModelSection,
    location: str,
    quantization: str,
    max_length: int,
    form: ModelForm = CAUSAL_FORM,
    places: Mapping[str, int | str] | None = None,
) -> nn.Module:
    """Return a model with its weights, on the device where it will run.

    A model that comes quantized is loaded as it is.

    Args:
        model: the recipe's model section.
        location: folder or hub id of the model.
        quantization: name of the quantization.
        max_length: number of tokens of the longest row.
        form: the form in which the task needs the model.
        places: where its parts are kept, as :func:`adapterzoo.model.placing.choose_places` says; None for one device,
            or to let transformers place a quantized model.

    Raises:
        UserError: transformers cannot load the model, or its weights are not complete.
    """
    import torch

    gpu.set_precision(model.tf32)
    dtype = getattr(torch, model.dtype)
    saved = None if quantization == NONE else saved_quantization(load_config(model, location))
    load = LoadSettings(dtype, model.double_quantization, _unquantized(model, location, form))
    folder = None
    if model.offload_folder is not None and places is not None and DISK in places.values():
        folder = OffloadFolder(Path(model.offload_folder).absolute())
    kind = quantizations()[quantization]
    # The freed memory of weights before they are quantized is more than that of those after it.
    with giving_back_freed_memory(), kind.while_loading():
        loaded = _from_pretrained(
            model,
            location,
            form,
            dtype=dtype,
            attn_implementation=attention(model, max_length),
            **_placing(model, places, folder),
            **loading_arguments(quantization, load, saved),
        )
        if saved is None:
            kind.quantize(loaded, load)
        finish(loaded)
    if places is not None:
        from adapterzoo.model.offloaded import read_when_used

        read_when_used(loaded, folder)
    head = loaded.get_output_embeddings()
    if head is not None:
        head.register_forward_pre_hook(_contiguous)
    add_embeddings(loaded, form.vocabulary)
    mark_head(loaded, form)
    add_row_attention(loaded)
    return loaded


def _placing(
    model: ModelSection, places: Mapping[str, int | str] | None, folder: OffloadFolder | None
) -> dict[str, Any]:
    """Return the arguments by which transformers puts a model on devices."""
    if places is not None:
        return {"device_map": dict(places), "offload_folder": str(folder.path) if folder else None}
    if model.device_map is None or device() == "cpu":
        return {"device_map": {"": device()}}
    # Quantized weights are kept on GPUs alone; transformers knows their sizes.
    memory = {place: most for place, most in (model.max_memory or {}).items() if place != "cpu"}
    return {"device_map": model.device_map, "max_memory": memory or None}


def _unquantized(model: ModelSection, location: str, form: ModelForm) -> list[str] | None:
    """Return the names of modules that are not quantized; None for those that transformers chooses.

    transformers leaves out only a head whose last parameter is its weight, and not a new one with a bias.
    """
    if not form.new_head:
        return None
    return head_names(skeleton(model, load_config(model, location), form))


def _contiguous(head: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    """Make the head's input contiguous, because otherwise torch copies the head's weight for each row of the batch."""
    return (arguments[0].contiguous(), *arguments[1:])
