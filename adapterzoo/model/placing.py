"""Choose where each part of a model is kept: on which GPU, in the memory of the CPU, or on the disk."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import Problem, UserError
from adapterzoo.model.files import weight_names
from adapterzoo.model.head import head_names
from adapterzoo.model.skeleton import skeleton
from adapterzoo.tasks.examples import ModelForm
from adapterzoo.terminal import size

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.recipe.schema import ModelSection

SHARE_OF_MEMORY = 0.8  # of the free memory, where the recipe does not say how much weights may take
CPU, DISK = "cpu", "disk"
Places = Mapping[str, int | str]
"""name of a module of the model -> the number of a GPU, or ``cpu`` or ``disk``"""


def choose_places(model: ModelSection, location: str, config: Any, form: ModelForm) -> Places:
    """Return where accelerate keeps each part of a model that is not quantized, by ``model.device_map``.

    It fills the GPUs, then the memory of the CPU, then the disk, and leaves room for the largest layer that is read.

    Args:
        model: the recipe's model section, which has a ``device_map``.
        location: folder or hub id of the model.
        config: the model's configuration.
        form: the form in which the task needs the model.

    Raises:
        UserError: the model cannot be kept in these places.
    """
    import torch
    from accelerate import infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    empty: Any = skeleton(model, config, replace(form, vocabulary=0)).to(getattr(torch, model.dtype))
    allowed, whole = most_memory(model), list(empty._no_split_modules or [])
    memory = dict(allowed)
    if model.device_map != "sequential":
        low_zero = model.device_map == "balanced_low_0"
        memory = get_balanced_memory(empty, memory, no_split_module_classes=whole, low_zero=low_zero)
    places = dict(infer_auto_device_map(empty, memory, no_split_module_classes=whole))
    if form.new_head and "" not in places:
        # No file has weights of a new head.
        main = next((place for place in places.values() if place not in (CPU, DISK)), CPU)
        places |= {name: main for name in (*places, *head_names(empty)) if name.split(".")[0] in head_names(empty)}
    if problem := _problem(model, places, empty, form, location):
        raise UserError(problem)
    return places


def most_memory(model: ModelSection) -> dict[int | str, int]:
    """Return what the weights of a model may take of each place: what the recipe says, or most of what is free."""
    from accelerate.utils import get_max_memory

    free = {place: int(most * SHARE_OF_MEMORY) for place, most in get_max_memory().items()}
    # An adapter may be asked on a machine with fewer GPUs than it was trained on.
    allowed = {place: most for place, most in (model.max_memory or {}).items() if place in free}
    return allowed or free


def kept_bytes(skeleton: nn.Module, places: Places, bytes_each: float) -> dict[int | str, int]:
    """Return how many bytes of a model each place keeps.

    Args:
        skeleton: the model without weights.
        places: where its parts are kept.
        bytes_each: size of a parameter.
    """
    kept: Counter[int | str] = Counter()
    for name, parameter in skeleton.named_parameters():
        kept[_place_of(name, places)] += round(parameter.numel() * bytes_each)
    return dict(kept)


def offloaded_places(places: Places) -> set[int | str]:
    """Return the places that keep weights and compute nothing: the disk, and beside GPUs the memory of the CPU."""
    used = set(places.values())
    return used & ({DISK, CPU} if used - {DISK, CPU} else {DISK})


def computes_on_several(model: nn.Module) -> bool:
    """Tell whether layers of a loaded model compute on different GPUs."""
    return len(set(getattr(model, "hf_device_map", {}).values())) > 1


def called(place: int | str) -> str:
    """Return where a place is, as words: ``in memory``, ``on disk``, ``on GPU 0``."""
    return {CPU: "in memory", DISK: "on disk"}.get(str(place), f"on GPU {place}")


def layers_on_disk(model: nn.Module) -> Places:
    """Return the places of a model whose layers are on the disk, and everything else in memory."""
    return dict(_layers_on_disk(model, model, ""))


def _layers_on_disk(model: Any, module: nn.Module, name: str) -> Iterator[tuple[str, str]]:
    layers = set(model._no_split_modules or ())
    if type(module).__name__ in layers:
        yield name, DISK
    elif not any(type(part).__name__ in layers for part in module.modules()):
        yield name, CPU
    else:
        prefix = f"{name}." if name else ""
        yield from ((f"{prefix}{own}", CPU) for own in (*module._parameters, *module._buffers))
        for child, part in module.named_children():
            yield from _layers_on_disk(model, part, prefix + child)


def _problem(model: ModelSection, places: Places, skeleton: Any, form: ModelForm, location: str) -> Problem | None:
    """Return why a model cannot be kept in these places; None if it can."""
    away = offloaded_places(places)
    first, embeddings = next(iter(skeleton.named_parameters()))
    if _place_of(first, places) in away:
        room = ", ".join(f"{size(most)} {called(place)}" for place, most in most_memory(model).items())
        layers = [part for part in skeleton.modules() if type(part).__name__ in (skeleton._no_split_modules or ())]
        largest = max((sum(weight.nbytes for weight in layer.parameters()) for layer in layers), default=0)
        needed = f"the embeddings ({size(embeddings.nbytes)}) and room to read the largest layer ({size(largest)})"
        what = f"allows {room}: too little for {needed}."
        return Problem("model.max_memory", what, "Allow more.")
    head = next((name for name, part in skeleton.named_modules() if part is skeleton.get_output_embeddings()), None)
    added = form.vocabulary > skeleton.get_input_embeddings().weight.shape[0]
    if added and head is not None and _place_of(head, places) in away:
        what = "adds an embedding, which the head needs too, and the head is offloaded (model.device_map)."
        return Problem("model.padding_token", what, "Leave it out, or let the model have more memory.")
    if model.offload_folder is not None and not _is_writable(Path(model.offload_folder)):
        return Problem("model.offload_folder", f"is no folder that can be written: {model.offload_folder}")
    if model.offload_folder is None and DISK in away and (joined := _joined(places, skeleton, location)):
        what = f"is needed: '{joined}' and others are made of several weights of the files, and kept there as one."
        return Problem("model.offload_folder", what, "Name a folder with room for the model.")
    return None


def _is_writable(folder: Path) -> bool:
    """Tell whether a folder can be written, or made."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK)


def _joined(places: Places, skeleton: Any, location: str) -> str | None:
    """Return a parameter on the disk that transformers makes of several weights, like experts; None if there is none.

    transformers then writes it to a folder, because it cannot be read in place.
    """
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter
    except ImportError:  # then transformers says it while it loads the model
        return None
    steps = [step for step in get_model_conversion_mapping(skeleton) if isinstance(step, WeightConverter)]
    ends = tuple(target.lstrip(".") for step in steps for target in step.target_patterns)
    saved = weight_names(Path(location)) if Path(location).is_dir() else set[str]()
    if not ends or any(name.endswith(ends) for name in saved):
        return None
    names = (name for name, _ in skeleton.named_parameters() if name.endswith(ends))
    return next((name for name in names if _place_of(name, places) == DISK), None)


def _place_of(name: str, places: Places) -> int | str:
    """Return the place of a parameter or module: its own, or that of a module that it is in."""
    while name and name not in places:
        name = name.rpartition(".")[0]
    return places[name]
