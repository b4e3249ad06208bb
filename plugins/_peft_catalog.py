"""Makes the catalog of PEFT's methods: their options from its configuration classes, their abilities from the kit.

    python -m adapterzoo_plugins._peft_catalog [--options | NAME...]

Run it when PEFT is raised, which takes minutes. ``adapterzoo methods`` reads the catalog, and so starts without
importing PEFT.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

from adapterzoo_plugins.peft_types import catalog, derive

from adapterzoo.conformance import ARCHITECTURES, Case, Report
from adapterzoo.methods.contract import QUANTIZATIONS
from adapterzoo.methods.registry import registry

CATALOG = Path(__file__).with_name("_peft_catalog.json")
# Fields that are no choice of the user's: bookkeeping, other trainers' machinery, exceptions layer by layer.
PLUMBING = {
    "bias", "ensure_weight_tying", "fan_in_fan_out", "init_weights", "layers_pattern", "layers_to_transform",
    "modules_to_save", "num_attention_heads", "num_layers", "num_transformer_submodules", "progressbar",
    "runtime_offload_base_weight", "save_indices", "save_only_topk_weights", "save_precomputed_indices",
    "save_projection", "token_dim", "tokenizer_kwargs", "tokenizer_name_or_path",
}  # fmt: skip
# Found out by trial, in this order: what a method that claims everything fails, it does not claim.
DECLARABLE = {
    "starts at base": "starts_at_base",
    "resumes": "resumes",
    "base untouched": "changes_base",
    "shares a prefix": "token_wise",
}
DEFAULTS: dict[str, Any] = {"starts_at_base": True, "resumes": True, "changes_base": False}


def option_type(annotation: Any) -> str | list[Any] | None:
    """A type as the catalog writes it: ``int``, ``float|null``, or the list of allowed words; None: not expressible."""
    if annotation in (bool, int, float, str):
        return str(annotation.__name__)
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [member.value for member in annotation]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return list(inner)
    if origin is list and inner in ((str,), (int,)):
        return f"list[{inner[0].__name__}]"
    if origin in (typing.Union, types.UnionType):
        parts = [option_type(part) for part in inner]
        words = [word for part in parts if isinstance(part, list) for word in part]
        if words:  # named words, which the class takes as strings too
            return [*words, *([None] if "null" in parts else [])]
        known = [part for part in parts if isinstance(part, str)]
        # Sorted: the order in a union depends on what was imported before. What is nothing comes last.
        return "|".join(sorted(known, key=lambda part: (part == "null", part))) if len(known) == len(parts) else None
    return None


def options(config: Any) -> dict[str, dict[str, Any]]:
    """The options of a configuration class that a recipe can give."""
    from peft import PeftConfig

    hints = typing.get_type_hints(config)
    common = {field.name for field in dataclasses.fields(PeftConfig)} | PLUMBING
    found = {}
    for field in dataclasses.fields(config):
        kind = option_type(hints[field.name])
        if field.name in common or field.name.endswith(("_pattern", "_config")) or kind is None:
            continue
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        default = default.value if isinstance(default, enum.Enum) else default
        help_text = field.metadata.get("help") or _documented(config, field.name)
        sentence = " ".join(help_text.split()).partition(". ")[0].rstrip(".")
        found[field.name] = {"type": kind, "default": default, "help": sentence}
    return found


def _documented(config: Any, field: str) -> str:
    """What the docstring of a configuration class says of a field, under its arguments."""
    found = re.search(rf"^ +{field} \(.*?\): *\n?(.*?)(?=^ +\w+ \(|\Z)", config.__doc__ or "", re.DOTALL | re.MULTILINE)
    return found.group(1) if found else "PEFT does not say"


def schema() -> dict[str, dict[str, Any]]:
    """Name -> what PEFT's registry and configuration classes say of each of its types."""
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    return {
        kind.value.lower().replace("_", "-"): {
            "type": kind.value,
            "config": config.__name__,
            "options": options(config),
        }
        for kind, config in sorted(PEFT_TYPE_TO_CONFIG_MAPPING.items(), key=lambda item: item[0].value)
    }


def abilities(name: str) -> dict[str, Any]:
    """What the kit sees of a method that claims every ability, on every tiny model and base."""
    method = derive(name, quantizations=QUANTIZATIONS, mergeable_into=QUANTIZATIONS, **DEFAULTS)
    reports = [Case(method, architecture, base).run() for base in QUANTIZATIONS for architecture in ARCHITECTURES]
    return {**conclude(reports), **size_option(name)}


def conclude(reports: list[Report]) -> dict[str, Any]:
    """Abilities, from the reports on a method that claimed them all."""
    ran = [report for report in reports if not report.declined]
    found: dict[str, Any] = {"quantizations": [], "mergeable_into": []}
    # On the plain base: what is not so there, but is over a quantized one, is wrong there.
    excused = {prop for report in ran if report.quantization == "none" for prop in report.failures} & set(DECLARABLE)
    found.update({DECLARABLE[prop]: DECLARABLE[prop] == "changes_base" for prop in sorted(excused)})
    reasons = []
    for base in dict.fromkeys(report.quantization for report in reports):
        there = [report for report in ran if report.quantization == base]
        failures = {
            f"{prop}: {what}"
            for report in there
            for prop, what in report.failures.items()
            if prop not in excused and prop != "merges"
        }
        if there and not failures:
            found["quantizations"].append(base)
            if not any("merges" in report.failures for report in there):
                found["mergeable_into"].append(base)
        reasons += [f"{base}: {reason}" for reason in sorted(failures)]
    if any("rows alone" in report.failures for report in ran):
        found["quantizations"], found["mergeable_into"] = [], []  # int8, where that cannot be asked, is no exception
    reasons = reasons or sorted({report.declined for report in reports if report.declined})
    if reasons:
        found["refused"] = reasons
    return found


def size_option(name: str) -> dict[str, str]:
    """The first whole-number option, the rank before others, that changes how many parameters are trained."""
    numbers = [option for option, about in catalog()[name]["options"].items() if about["type"] == "int"]
    for option in sorted(numbers, key=lambda option: option != "r"):
        case = Case(derive(name, size_option=option, quantizations=QUANTIZATIONS, **DEFAULTS), ARCHITECTURES[0], "none")
        if case.run().verdicts.get("size changes", "-") is None:
            return {"size_option": option}
    return {}


def main() -> None:
    """Write the catalog; try all types, or those named, or with ``--options`` none."""
    import peft

    made = json.loads(CATALOG.read_text(encoding="utf-8"))
    derived = schema()
    zoo = registry()
    # Of a type with a plugin of its own, that plugin says what it can do.
    own = [name for name in derived if name not in zoo or not zoo[name].fallback]
    entries = {
        name: facts if name in own else {**made["types"].get(name, {}), **facts} for name, facts in derived.items()
    }
    write(peft.__version__, entries)
    named = [name for name in sys.argv[1:] if name != "--options"]
    for name in named if sys.argv[1:] else [name for name in entries if name not in own]:
        entries[name] = {**derived[name], **abilities(name)}
        print(name, {key: value for key, value in entries[name].items() if key != "options"}, flush=True)
        write(peft.__version__, entries)


def write(version: str, entries: dict[str, Any]) -> None:
    """Write the catalog, and forget what was read of it."""
    CATALOG.write_text(json.dumps({"peft": version, "types": entries}, indent=1) + "\n", encoding="utf-8")
    catalog.cache_clear()


if __name__ == "__main__":
    main()
