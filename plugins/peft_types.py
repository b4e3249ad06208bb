"""All methods in PEFT's registry that have no file of their own here.

What PEFT tells about its types, and what the conformance kit found out about them, is in a catalog (see
``_peft_catalog.py``), so that methods are listed without importing PEFT. ``_peft_notes.json`` has what neither can
know: a summary, the paper and a published learning rate.
"""

from __future__ import annotations

import json
from functools import cache, cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from adapterzoo_plugins._prompt import PromptMethod
from pydantic import Field, create_model

from adapterzoo import Context, Options, PeftMethod, Problem, hookimpl
from adapterzoo.methods.contract import attributes
from adapterzoo.methods.targets import pooler_problems

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn

HERE = Path(__file__).parent
TYPES = {
    "bool": bool,
    "int": int,
    "float": float,
    "str": str,
    "list[str]": list[str],
    "list[int]": list[int],
    "null": None,
}


class Derived(PeftMethod[Options]):
    """A method that is described by the catalog and the notes alone."""

    fallback = True
    token_wise = True

    def __init__(self, name: str, facts: dict[str, Any]) -> None:
        self.name = name  # type: ignore[misc]  # other methods set it on the class, but this class has many methods
        self.facts = facts
        for attribute in attributes():
            if attribute in facts:
                setattr(self, attribute, facts[attribute])
        if not self.quantizations and self.unavailable is None:
            self.unavailable = facts["refused"][0]  # type: ignore[misc]

    @cached_property
    def options(self) -> type[Options]:  # type: ignore[override]
        """Build the pydantic model of the options, only when it is first needed: building all of them takes long."""
        fields: dict[str, Any] = {}
        # The default is all linear layers, as for LoRA and its variants; None leaves the choice to PEFT.
        defaults = {"target_modules": "all-linear", **self.facts.get("settings", {})}
        for name, option in self.facts["options"].items():
            default = defaults.get(name, option["default"])
            kind = _type(option["type"])
            fields[name] = (kind if default is not None else kind | None, Field(default, description=option["help"]))
        model: type[Options] = create_model(f"{self.facts['type'].title()}Options", __base__=Options, **fields)
        return model

    def peft_config(self, model: nn.Module, options: Options, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import PeftType
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        config: PeftConfig = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(self.facts["type"])](**options.model_dump())
        if hasattr(config, "progressbar"):
            config.progressbar = False
        return config

    def problems(self, skeleton: nn.Module, options: Options, context: Context) -> list[Problem]:
        """See :meth:`Method.problems`."""
        requires = self.facts.get("requires")
        if requires and find_spec(requires["module"]) is None:
            what = f"PEFT's {self.name} needs {requires['package']}, which is not installed."
            return [Problem("options", what, f"Try: pip install {requires['package']}.")]
        problems = super().problems(skeleton, options, context)
        if self.facts.get("sees_every_token"):
            problems += pooler_problems(skeleton, getattr(options, "target_modules", "all-linear"), self.name)
        return problems

    def wrap(self, model: nn.Module, options: Options, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        return self._repair(super().wrap(model, options, context))

    def load(self, model: nn.Module, folder: Path, options: Options, context: Context) -> nn.Module:
        """See :meth:`Method.load`."""
        return self._repair(super().load(model, folder, options, context))

    def _repair(self, model: nn.Module) -> nn.Module:
        """Work around the faults of PEFT's layers that the notes name."""
        if self.facts.get("asks_for_task"):
            _give_task(model)
        if self.facts.get("adds_in_place"):
            _copy_quantized_outputs(model)
        return model


class DerivedPrompt(Derived, PromptMethod[Options]):
    """A derived method that learns a prompt."""

    token_wise = False


@cache
def catalog() -> dict[str, dict[str, Any]]:
    """Return all facts about each type of PEFT, by the name of its method."""
    generated = json.loads((HERE / "_peft_catalog.json").read_text(encoding="utf-8"))
    notes = json.loads((HERE / "_peft_notes.json").read_text(encoding="utf-8"))
    defaults = {
        "summary": "PEFT's method of this name",
        "paper": "https://huggingface.co/docs/peft",
        "learning_rate": 1e-3,
        "learning_rate_source": "none is published; a common rate for adapters",
    }
    return {name: {**defaults, **notes.get(name, {}), **facts} for name, facts in generated["types"].items()}


def derive(name: str, **claims: Any) -> Derived:
    """Return the method of one type of PEFT; the claims replace abilities that the catalog gives."""
    facts = {**catalog()[name], **claims}
    kind = DerivedPrompt if "num_virtual_tokens" in facts["options"] else Derived
    return kind(name, facts)


def _give_task(model: Any) -> None:
    """Give a method for many tasks the number of the first task in every call."""
    import torch

    def add_task(module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        rows = keywords["input_ids"]
        return arguments, {**keywords, "task_ids": torch.zeros(len(rows), dtype=torch.long, device=rows.device)}

    def add_to_layer(layer: nn.Module, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        rows = arguments[0]
        return arguments, {"task_ids": torch.zeros(len(rows), dtype=torch.long, device=rows.device), **keywords}

    model.register_forward_pre_hook(add_task, with_kwargs=True)
    for layer in model.modules():
        # PEFT tells its layers the task only during the forward pass, but gradient checkpointing calls them again.
        if hasattr(layer, "poly_router"):
            layer.register_forward_pre_hook(add_to_layer, with_kwargs=True)
    generate = model.generate
    model.generate = lambda **keywords: generate(**add_task(model, (), keywords)[1])


def _copy_quantized_outputs(model: nn.Module) -> None:
    """Copy the outputs of bitsandbytes' layers, because PEFT changes them in place, which torch forbids."""

    def copy(layer: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return output.clone()

    for layer in model.modules():
        if type(layer).__module__.startswith("bitsandbytes"):
            layer.register_forward_hook(copy)


def _type(written: str | list[Any]) -> Any:
    """Return the Python type that the catalog writes as ``int``, ``float|null`` or a list of allowed words."""
    if isinstance(written, list):
        return Literal[tuple(written)]
    kinds = [TYPES[part] for part in written.split("|")]
    union: Any = kinds[0]
    for kind in kinds[1:]:
        union = union | kind
    return union


@hookimpl
def adapterzoo_methods() -> list[Derived]:
    """Return the methods of this file."""
    return [derive(name) for name in catalog()]
