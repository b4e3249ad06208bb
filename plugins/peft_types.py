"""Every other method of PEFT's, by name: derived from its registry, where no file of its own says more.

What PEFT says of its types, and what the conformance kit saw of them, is in a catalog (see ``_peft_catalog.py``):
the zoo is listed without importing PEFT. What neither can know, a summary, the paper, a published learning rate, is
in ``_peft_notes.json``.
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
    """A method of which everything is known from the catalog and the notes."""

    fallback = True
    token_wise = True

    def __init__(self, name: str, facts: dict[str, Any]) -> None:
        self.name = name  # type: ignore[misc]  # of the class for all others; here one class has many methods
        self.facts = facts
        for attribute in attributes():
            if attribute in facts:
                setattr(self, attribute, facts[attribute])
        if not self.quantizations and self.unavailable is None:
            self.unavailable = facts["refused"][0]  # type: ignore[misc]

    @cached_property
    def options(self) -> type[Options]:  # type: ignore[override]
        """Built when first asked for: thirty models take a while."""
        fields: dict[str, Any] = {}
        # All linear layers, as for the family of LoRA; None leaves the choice to PEFT.
        settings = {"target_modules": "all-linear", **self.facts.get("settings", {})}
        for name, about in self.facts["options"].items():
            default = settings.get(name, about["default"])
            kind = _type(about["type"])
            fields[name] = (kind if default is not None else kind | None, Field(default, description=about["help"]))
        made: type[Options] = create_model(f"{self.facts['type'].title()}Options", __base__=Options, **fields)
        return made

    def peft_config(self, model: nn.Module, options: Options, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import PeftType
        from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

        config: PeftConfig = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(self.facts["type"])](
            task_type="CAUSAL_LM", **options.model_dump()
        )
        if hasattr(config, "progressbar"):
            config.progressbar = False
        return config

    def problems(self, skeleton: nn.Module, options: Options, context: Context) -> list[Problem]:
        """See :meth:`Method.problems`."""
        requires = self.facts.get("requires")
        if requires and find_spec(requires["module"]) is None:
            what = f"PEFT's {self.name} needs {requires['package']}, which is not installed."
            return [Problem("options", what, f"Try: pip install {requires['package']}.")]
        return super().problems(skeleton, options, context)

    def wrap(self, model: nn.Module, options: Options, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        return self._mended(super().wrap(model, options, context))

    def load(self, model: nn.Module, folder: Path) -> nn.Module:
        """See :meth:`Method.load`."""
        return self._mended(super().load(model, folder))

    def _mended(self, model: nn.Module) -> nn.Module:
        if self.facts.get("asks_for_task"):
            _give_task(model)
        if self.facts.get("adds_in_place"):
            _copy_quantized_outputs(model)
        return model


class DerivedPrompt(Derived, PromptMethod[Options]):
    """One that learns a prompt."""

    token_wise = False


@cache
def catalog() -> dict[str, dict[str, Any]]:
    """Name -> all that is known of a type of PEFT's."""
    made = json.loads((HERE / "_peft_catalog.json").read_text(encoding="utf-8"))
    notes = json.loads((HERE / "_peft_notes.json").read_text(encoding="utf-8"))
    unknown = {
        "summary": "PEFT's method of this name",
        "paper": "https://huggingface.co/docs/peft",
        "learning_rate": 1e-3,
        "learning_rate_source": "none is published; a common one for adapters",
    }
    return {name: {**unknown, **notes.get(name, {}), **facts} for name, facts in made["types"].items()}


def derive(name: str, **claims: Any) -> Derived:
    """The method of one of PEFT's types; claims replace what the catalog says of its abilities."""
    facts = {**catalog()[name], **claims}
    kind = DerivedPrompt if "num_virtual_tokens" in facts["options"] else Derived
    return kind(name, facts)


def _give_task(model: Any) -> None:
    """A method for many tasks is asked for one: the first."""
    import torch

    def first(module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        rows = keywords["input_ids"]
        return arguments, {**keywords, "task_ids": torch.zeros(len(rows), dtype=torch.long, device=rows.device)}

    model.register_forward_pre_hook(first, with_kwargs=True)
    answer = model.generate
    model.generate = lambda **keywords: answer(**first(model, (), keywords)[1])


def _copy_quantized_outputs(model: nn.Module) -> None:
    """PEFT adds to what the base's layer returned, in place, which torch forbids for what bitsandbytes returns."""

    def copied(layer: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return output.clone()

    for layer in model.modules():
        if type(layer).__module__.startswith("bitsandbytes"):
            layer.register_forward_hook(copied)


def _type(written: str | list[Any]) -> Any:
    if isinstance(written, list):
        return Literal[tuple(written)]
    kinds = [TYPES[part] for part in written.split("|")]
    found: Any = kinds[0]
    for kind in kinds[1:]:
        found = found | kind
    return found


@hookimpl
def adapterzoo_methods() -> list[Derived]:
    """The methods of this file."""
    return [derive(name) for name in catalog()]
