"""Tell what each method can do: what was seen when it was tried, and where it was not, what the method declares.

``conformance/capabilities.py`` tries methods. The package of a plugin keeps what it saw in its capabilities.json.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib.resources import files
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict  # pydantic needs this one before Python 3.12

from adapterzoo.methods.contract import QUANTIZATIONS, TASK_TYPES, Method
from adapterzoo.methods.registry import Registry

FILE = "capabilities.json"
COLUMNS = {
    "none": "trains on a base model without quantization",
    "int8": "trains on an 8-bit base model",
    "nf4": "trains on a 4-bit base model",
    "merges": "adapterzoo merge makes a plain model of base and adapter, without quantization",
    "merges-int8": "merges into the 8-bit weights of its base",
    "merges-nf4": "merges into the 4-bit weights of its base",
    "export": "adapterzoo export writes its adapters in the form that servers of many adapters load",
    "export-whole": "what is exported is the same adapter, and not one of a lower rank",
    "resumes": "a training that was stopped continues to the same weights",
    "checkpointing": "trains the same adapter with gradient checkpointing",
    "shared-prefix": "computes a prefix that all rows of a batch share only once",
    "ddp": "two processes that divide its batches train the same adapter as one (train.devices)",
    "fsdp2": "so do two processes that also divide the base model (train.sharding: fsdp2)",
    "zero2": "so do two whose gradients and optimizer DeepSpeed divides (train.sharding: zero2)",
    "zero3": "so do two whose weights DeepSpeed divides as well (train.sharding: zero3)",
    "offload": "trains the same adapter while layers of its base are on the disk (model.device_map)",
    "compile": "has the same loss and gradients under torch.compile",
    "compile-whole": "torch.compile captures its forward pass as one graph, without breaks",
    "peft": "plain PEFT loads its adapters",
    **{task_type: f"trains models for tasks of the type {task_type}" for task_type in TASK_TYPES},
}
"""capability -> what a method does that has it"""
UNDECLARED = "the method does not declare it"
Record = dict[str, bool | str]
"""capability -> True, or the reason why the method does not have it; a capability that is not known is missing"""


class _File(TypedDict):
    date: str
    versions: dict[str, str]
    methods: dict[str, dict[str, Any]]


_TYPE = TypeAdapter(_File)


def declared(method: Method[Any]) -> dict[str, bool]:
    """Return the capabilities that a method declares to have, or not to have."""
    causal = TASK_TYPES[0] in method.task_types
    merges = {f"merges-{name}": name in method.mergeable_into for name in QUANTIZATIONS if name != "none"}
    return {
        **{name: name in method.quantizations for name in QUANTIZATIONS},
        "merges": bool(method.mergeable_into) or method.requires_quantization is not None,
        **merges,
        "resumes": method.resumes,
        "shared-prefix": method.token_wise and causal,
        "peft": method.loads_in_peft and causal,
        **{task_type: task_type in method.task_types for task_type in TASK_TYPES},
    }


def capabilities(zoo: Registry, name: str) -> Record:
    """Return what a method can do: what its package recorded, and for the rest what the method declares."""
    claims = declared(zoo[name])
    seen = {column: value for column, value in recorded(zoo.module(name), name).items() if column in COLUMNS}
    record: Record = {}
    for column in COLUMNS:
        value = seen.get(column, claims.get(column))
        if value is not None:
            # A recipe may use only what the method declares, even if more was seen to work.
            works = value is True and claims.get(column, True)
            record[column] = works or (value if isinstance(value, str) else UNDECLARED)
    return record


def recorded(module: str, name: str) -> Record:
    """Return the record of a method in the package of its plugin; an empty one if there is none that can be read.

    Args:
        module: name of the plugin's module.
        name: name of the method.
    """
    record = _file(module).get("methods", {}).get(name, {})
    return {column: value for column, value in record.items() if value is True or isinstance(value, str)}


def made_with(module: str) -> dict[str, str]:
    """Return with what the records of a plugin's package were made: package -> version, and the date."""
    found = _file(module)
    return {**found.get("versions", {}), "date": found["date"]} if found else {}


@cache
def _file(module: str) -> dict[str, Any]:
    """Return the content of the file of a plugin's package; empty if there is none, or one of another form."""
    package = getattr(sys.modules.get(module), "__package__", "")
    if not package:  # a module that is in no package has no folder of its own
        return {}
    try:
        return dict(_TYPE.validate_json((files(package) / FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
