"""The base class of methods whose layers come from PEFT."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import AdapterzooError, Problem
from adapterzoo.methods.contract import Context, Method, OptionsT
from adapterzoo.methods.layers import CONFIG, WEIGHTS
from adapterzoo.methods.peft_targets import as_plain_peft_reads, as_trained, name_linear_layers, targets_as_given
from adapterzoo.methods.targets import new_head, target_problems

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


# Keys of a saved configuration by which PEFT chooses classes, imports modules, or loads other models and tokenizers.
LOADING_KEYS = (
    "peft_type", "auto_mapping", "megatron_config", "megatron_core", "tokenizer_name_or_path", "tokenizer_kwargs",
    "prompt_tuning_init", "prompt_tuning_init_state_dict_path", "shadow_model", "adapters", "layer_replication",
)  # fmt: skip


class PeftMethod(Method[OptionsT]):
    """A method whose layers come from PEFT; a subclass only has to return the ``PeftConfig``."""

    loads_in_peft = True

    def peft_config(self, model: nn.Module, options: OptionsT, context: Context) -> PeftConfig:
        """Return the PEFT configuration for these options; ``task_type`` and ``modules_to_save`` are set afterwards."""
        raise NotImplementedError

    @contextmanager
    def layers(self) -> Iterator[None]:
        """Run around every call in which PEFT puts in or takes out layers; override it to replace PEFT's own layers."""
        yield

    def problems(self, skeleton: nn.Module, options: OptionsT, context: Context) -> list[Problem]:
        """Return a problem for each name in ``target_modules`` that matches no layer, which PEFT would ignore."""
        return target_problems(skeleton, getattr(options, "target_modules", None))

    def wrap(self, model: nn.Module, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        from peft import get_peft_model

        config = self.peft_config(model, options, context)
        config.task_type = context.task_type
        if names := new_head(model):
            config.modules_to_save = [*names]
        name_linear_layers(config, model)
        with self.layers(), targets_as_given():
            return _keep_dtype(get_peft_model(model, config))

    def save(self, model: Any, folder: Path) -> None:
        """See :meth:`Method.save`."""
        # Do not save embeddings: to decide about them, PEFT would ask the hub, and there may be no network.
        model.save_pretrained(str(folder), save_embedding_layers=False)
        tidy_config(model, model.peft_config["default"], folder)

    def load(self, model: nn.Module, folder: Path, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.load`.

        Raises:
            AdapterzooError: the saved adapter is not complete, is of another method, or names code or other models.
        """
        from peft import PeftConfig, PeftModel

        _check_config(folder, self.peft_config(model, options, context))
        config = as_trained(PeftConfig.from_pretrained(str(folder)), model)
        config.inference_mode = True
        with self.layers(), targets_as_given():
            wrapped = PeftModel.from_pretrained(model, str(folder), config=config)
        _check_keys(wrapped, folder)
        return _keep_dtype(wrapped)

    def merge(self, model: Any) -> nn.Module:
        """See :meth:`Method.merge`."""
        with self.layers():
            merged: nn.Module = model.merge_and_unload()
        # Some of PEFT's methods (LNTuning) leave their copy of a new head in its wrapper.
        for name in new_head(merged):
            if copies := getattr(getattr(merged, name), "modules_to_save", None):
                setattr(merged, name, copies["default"])
        return merged

    def findings(self, model: Any) -> dict[str, Any]:
        """Return the options that PEFT changed without a message, in layers that they do not fit."""
        adjusted = _adjusted(model)
        return {"adjusted": adjusted} if adjusted else {}


def tidy_config(model: Any, config: PeftConfig, folder: Path) -> None:
    """Put a saved configuration in words that plain PEFT does not misread, and its names in alphabetical order."""
    sort_names(config, folder)
    saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    targets = getattr(model.base_model, "targeted_module_names", [])
    saved = as_plain_peft_reads(saved, getattr(model.get_base_model().config, "model_type", None), targets)
    (folder / CONFIG).write_text(json.dumps(saved, indent=2, sort_keys=True), encoding="utf-8")


def sort_names(config: PeftConfig, folder: Path) -> None:
    """Put the names in a saved configuration in alphabetical order.

    PEFT keeps them in sets, and would save them in another order in each process.
    """
    saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    for name, value in vars(config).items():
        if isinstance(value, set) and isinstance(saved.get(name), list):
            saved[name] = sorted(saved[name])
    (folder / CONFIG).write_text(json.dumps(saved, indent=2, sort_keys=True), encoding="utf-8")


def _check_config(folder: Path, wanted: PeftConfig) -> None:
    """Raise AdapterzooError if a saved adapter's configuration is of another method, or names code or other models.

    PEFT would import modules, or load models and tokenizers, that the configuration names.
    """
    saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    settings = wanted.to_dict()
    for key in LOADING_KEYS:
        if saved.get(key, settings.get(key)) != settings.get(key):
            raise AdapterzooError(f"{folder / CONFIG} has {key} = {saved[key]!r:.100}, which its method does not set")


def _check_keys(model: nn.Module, folder: Path) -> None:
    """Raise AdapterzooError if a saved adapter has other keys than the model; PEFT would ignore that."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as file:
        saved = set(file.keys())
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if saved != wanted:
        missing, more = sorted(wanted - saved), sorted(saved - wanted)
        what = (
            f"{len(missing)} weights are missing, like {missing[0]}" if missing else f"{more[0]} does not belong to it"
        )
        raise AdapterzooError(f"{folder / WEIGHTS} does not match the adapter: {what}")


def _keep_dtype(model: nn.Module) -> nn.Module:
    """Make every adapted layer return its output in the dtype of its input.

    Over quantized bases some of PEFT's layers return float32, and the next layer of a bfloat16 model then crashes.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    def cast(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        given = arguments[0] if arguments else None
        if not (isinstance(given, torch.Tensor) and isinstance(output, torch.Tensor) and given.is_floating_point()):
            return output
        return output.to(given.dtype)

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.register_forward_hook(cast)
    return model


def _adjusted(model: Any) -> dict[str, str]:
    """Return the options whose value in some layers differs from the configuration: option -> the change, as text."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = model.peft_config["default"]
    counts: Counter[tuple[str, int, int]] = Counter()
    for layer in model.modules():
        for option, wanted in vars(config).items() if isinstance(layer, BaseTunerLayer) else ():
            actual = getattr(layer, option, None)
            actual = actual.get("default") if isinstance(actual, dict) else None
            # A value of zero or less asks PEFT to choose one itself.
            if type(wanted) is int and type(actual) is int and wanted > 0 and actual != wanted:
                counts[option, wanted, actual] += 1
    changes: dict[str, list[str]] = {}
    for (option, wanted, actual), count in counts.items():
        changes.setdefault(option, []).append(f"{wanted} -> {actual} in {count} layers")
    return {option: ", ".join(parts) for option, parts in changes.items()}
