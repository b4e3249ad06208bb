"""Methods whose layers are PEFT's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import AdapterzooError, Problem
from adapterzoo.methods.contract import Context, Method, OptionsT
from adapterzoo.methods.layers import WEIGHTS, target_problems

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class PeftMethod(Method[OptionsT]):
    """A method whose layers are PEFT's: it only has to give the ``PeftConfig``."""

    def peft_config(self, model: nn.Module, options: OptionsT, context: Context) -> PeftConfig:
        """The PEFT configuration of these options."""
        raise NotImplementedError

    @contextmanager
    def layers(self) -> Iterator[None]:
        """Held while PEFT puts layers into a model; a method whose layers need mending mends them here."""
        yield

    def problems(self, skeleton: nn.Module, options: OptionsT, context: Context) -> list[Problem]:
        """Names in ``target_modules`` of which one matches nothing: PEFT takes them in silence."""
        return target_problems(skeleton, getattr(options, "target_modules", None))

    def wrap(self, model: nn.Module, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        from peft import get_peft_model

        with self.layers():
            return _keep_dtype(get_peft_model(model, self.peft_config(model, options, context)))

    def save(self, model: nn.Module, folder: Path) -> None:
        """See :meth:`Method.save`. Plain ``PeftModel.from_pretrained`` loads it."""
        # Left on "auto", PEFT asks the hub whether the vocabulary was resized.
        model.save_pretrained(str(folder), save_embedding_layers=False)

    def load(self, model: nn.Module, folder: Path) -> nn.Module:
        """See :meth:`Method.load`.

        Raises:
            AdapterzooError: the saved adapter is not whole, or is another method's.
        """
        from peft import PeftModel

        with self.layers():
            wrapped = PeftModel.from_pretrained(model, str(folder))
        _check_keys(wrapped, folder)
        return _keep_dtype(wrapped)

    def merge(self, model: Any) -> nn.Module:
        """See :meth:`Method.merge`."""
        with self.layers():
            merged: nn.Module = model.merge_and_unload()
        return merged

    def findings(self, model: Any) -> dict[str, Any]:
        """Sizes that PEFT changed for a layer that could not take them, which it does without a word."""
        adjusted = _adjusted(model)
        return {"adjusted": adjusted} if adjusted else {}


def _check_keys(model: nn.Module, folder: Path) -> None:
    """Raise AdapterzooError where a file and the adapter have other keys: PEFT leaves weights without one untrained."""
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    with safe_open(folder / WEIGHTS, framework="pt") as file:
        saved = set(file.keys())
    wanted = set(get_peft_model_state_dict(model, save_embedding_layers=False))
    if saved != wanted:
        missing, more = sorted(wanted - saved), sorted(saved - wanted)
        what = f"{len(missing)} weights are missing, like {missing[0]}" if missing else f"{more[0]} has no place in it"
        raise AdapterzooError(f"{folder / WEIGHTS} is not the whole adapter: {what}")


def _keep_dtype(model: nn.Module) -> nn.Module:
    """Make every adapted layer answer in the dtype it was asked in.

    Over quantized bases some of PEFT's layers answer in float32, and the next layer of a bfloat16 model crashes.
    """
    import torch
    from peft.tuners.tuners_utils import BaseTunerLayer

    def cast(layer: nn.Module, arguments: tuple[Any, ...], output: Any) -> Any:
        asked = arguments[0] if arguments else None
        if not (isinstance(asked, torch.Tensor) and isinstance(output, torch.Tensor) and asked.is_floating_point()):
            return output
        return output.to(asked.dtype)

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.register_forward_hook(cast)
    return model


def _adjusted(model: Any) -> dict[str, str]:
    """Option -> what became of it: where a layer's own record of it differs from the configuration."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    config = model.peft_config["default"]
    counts: Counter[tuple[str, int, int]] = Counter()
    for layer in model.modules():
        for option, wanted in vars(config).items() if isinstance(layer, BaseTunerLayer) else ():
            took = getattr(layer, option, None)
            took = took.get("default") if isinstance(took, dict) else None
            # Zero and below mean that PEFT should choose.
            if type(wanted) is int and type(took) is int and wanted > 0 and took != wanted:
                counts[option, wanted, took] += 1
    return {
        option: ", ".join(f"{wanted} -> {took} in {n} layers" for (o, wanted, took), n in counts.items() if o == option)
        for option in dict.fromkeys(option for option, _, _ in counts)
    }
