"""Write the catalog of PEFT's methods: options from its configuration classes, abilities from the conformance kit.

    python -m adapterzoo_plugins._peft_catalog [--options | NAME...]

Run it after an upgrade of PEFT; it takes minutes. ``adapterzoo methods`` reads the catalog, so that it does not
have to import PEFT.
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
# These fields are not options: PEFT uses them internally, or they need another trainer or set exceptions for layers, or
# with another value a saved adapter answers differently each time (the SVD of psoft, the sampling of pvera).
INTERNAL_FIELDS = {
    "bias", "ensure_weight_tying", "fan_in_fan_out", "init_weights", "layers_pattern", "layers_to_transform",
    "modules_to_save", "num_attention_heads", "num_layers", "num_transformer_submodules", "progressbar",
    "psoft_svd", "psoft_svd_lowrank_niter", "sample_at_inference",
    "runtime_offload_base_weight", "save_indices", "save_only_topk_weights", "save_precomputed_indices",
    "save_projection", "token_dim", "tokenizer_kwargs", "tokenizer_name_or_path",
}  # fmt: skip
# These have an effect only with initial weights that are not offered.
IDLE_FIELDS = {
    "DeftConfig": {"init_scale"},
    "MissConfig": {"mini_r"},
    "MultitaskPromptTuningConfig": {"prompt_tuning_init_task"},
    "PsoftConfig": {"random_seed"},
    "TinyLoraConfig": {"init_v_bound"},
}
# Property -> the attribute by which a method declares whether the property holds. To find out, the kit tests a method
# that claims all properties; those that fail are then not claimed.
DECLARABLE = {
    "starts at base": "starts_at_base",
    "resumes": "resumes",
    "base untouched": "changes_base",
    "shares a prefix": "token_wise",
}
DEFAULTS: dict[str, Any] = {"starts_at_base": True, "resumes": True, "changes_base": False}


def option_type(annotation: Any) -> str | list[Any] | None:
    """Return a type as the catalog writes it, like ``int``, ``float|null`` or a list of allowed words; else None."""
    if annotation in (bool, int, float, str):
        return str(annotation.__name__)
    if annotation is type(None):
        return "null"
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return [member.value for member in annotation]
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Literal:
        return list(arguments)
    if origin is list and arguments in ((str,), (int,)):
        return f"list[{arguments[0].__name__}]"
    if origin in (typing.Union, types.UnionType):
        parts = [option_type(part) for part in arguments]
        words = [word for part in parts if isinstance(part, list) for word in part]
        if words:  # PEFT also takes these words as plain strings
            return [*words, *([None] if "null" in parts else [])]
        known = [part for part in parts if isinstance(part, str)]
        # Sort the parts, because their order in a union depends on earlier imports. "null" comes last.
        return "|".join(sorted(known, key=lambda part: (part == "null", part))) if len(known) == len(parts) else None
    return None


def options(config: Any) -> dict[str, dict[str, Any]]:
    """Return the options of a configuration class that a recipe can give."""
    from peft import PeftConfig

    hints = typing.get_type_hints(config)
    common = {field.name for field in dataclasses.fields(PeftConfig)} | INTERNAL_FIELDS
    common |= IDLE_FIELDS.get(config.__name__, set())
    described = {}
    for field in dataclasses.fields(config):
        kind = option_type(hints[field.name])
        if field.name in common or field.name.endswith(("_pattern", "_config")) or kind is None:
            continue
        default: Any = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        default = default.value if isinstance(default, enum.Enum) else default
        help_text = field.metadata.get("help") or _docstring_help(config, field.name)
        sentence = " ".join(help_text.split()).partition(". ")[0].rstrip(".")
        described[field.name] = {"type": kind, "default": default, "help": sentence}
    return described


def _docstring_help(config: Any, field: str) -> str:
    """Return the description of a field in the docstring of its configuration class."""
    match = re.search(rf"^ +{field} \(.*?\): *\n?(.*?)(?=^ +\w+ \(|\Z)", config.__doc__ or "", re.DOTALL | re.MULTILINE)
    return match.group(1) if match else "PEFT has no description"


def schema() -> dict[str, dict[str, Any]]:
    """Return for each type of PEFT, by name, its configuration class and options."""
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
    """Return what the kit finds out about a method that claims every ability, on all tiny models and bases."""
    method = derive(name, quantizations=QUANTIZATIONS, mergeable_into=QUANTIZATIONS, **DEFAULTS)
    reports = [Case(method, architecture, base).run() for base in QUANTIZATIONS for architecture in ARCHITECTURES]
    return {**conclude(reports), **size_option(name)}


def conclude(reports: list[Report]) -> dict[str, Any]:
    """Return the abilities of a method, from the reports on it while it claimed all of them."""
    ran = [report for report in reports if not report.declined]
    facts: dict[str, Any] = {"quantizations": [], "mergeable_into": []}
    # A property that fails without quantization is not claimed at all. One that fails only on a quantized base excludes
    # that base.
    unclaimed = {prop for report in ran if report.quantization == "none" for prop in report.failures} & set(DECLARABLE)
    facts.update({DECLARABLE[prop]: DECLARABLE[prop] == "changes_base" for prop in sorted(unclaimed)})
    reasons = []
    for base in dict.fromkeys(report.quantization for report in reports):
        on_base = [report for report in ran if report.quantization == base]
        failures = {
            f"{prop}: {what}"
            for report in on_base
            for prop, what in report.failures.items()
            if prop not in unclaimed and prop != "merges"
        }
        if on_base and not failures:
            facts["quantizations"].append(base)
            if not any("merges" in report.failures for report in on_base):
                facts["mergeable_into"].append(base)
        reasons += [f"{base}: {reason}" for reason in sorted(failures)]
    if any("rows alone" in report.failures for report in ran):
        # Refuse int8 as well, although the kit cannot check this property on it.
        facts["quantizations"], facts["mergeable_into"] = [], []
    reasons = reasons or sorted({report.declined for report in reports if report.declined})
    if reasons:
        facts["refused"] = reasons
    return facts


def size_option(name: str) -> dict[str, str]:
    """Return the first integer option that changes how many parameters are trained; the rank is tried first."""
    numbers = [option for option, about in catalog()[name]["options"].items() if about["type"] == "int"]
    for option in sorted(numbers, key=lambda option: option != "r"):
        case = Case(derive(name, size_option=option, quantizations=QUANTIZATIONS, **DEFAULTS), ARCHITECTURES[0], "none")
        if case.run().verdicts.get("size changes", "-") is None:
            return {"size_option": option}
    return {}


def main() -> None:
    """Write the catalog, and test the abilities of all types, of those that are named, or of none (``--options``)."""
    import peft

    previous = json.loads(CATALOG.read_text(encoding="utf-8"))
    derived = schema()
    zoo = registry()
    # A type with its own plugin needs no abilities in the catalog, because the plugin declares them.
    own = [name for name in derived if name not in zoo or not zoo[name].fallback]
    entries = {
        name: facts if name in own else {**previous["types"].get(name, {}), **facts} for name, facts in derived.items()
    }
    write(peft.__version__, entries)
    named = [name for name in sys.argv[1:] if name != "--options"]
    for name in named if sys.argv[1:] else [name for name in entries if name not in own]:
        entries[name] = {**derived[name], **abilities(name)}
        print(name, {key: value for key, value in entries[name].items() if key != "options"}, flush=True)
        write(peft.__version__, entries)


def write(version: str, entries: dict[str, Any]) -> None:
    """Write the catalog, and clear the cached copy of it."""
    CATALOG.write_text(json.dumps({"peft": version, "types": entries}, indent=1) + "\n", encoding="utf-8")
    catalog.cache_clear()


if __name__ == "__main__":
    main()
