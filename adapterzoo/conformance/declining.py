"""Find out why a method does not accept options on an architecture, before it is used there."""

from __future__ import annotations

from typing import Any

from adapterzoo.conformance.models import tiny_skeleton
from adapterzoo.errors import Problem, origin
from adapterzoo.methods.calls import checked_wrap, find_problems
from adapterzoo.methods.contract import Context, Method


def declared_problems(method: Method[Any], architecture: str, context: Context, options: Any) -> list[Problem]:
    """Return why a method does not accept options on an architecture, as it says itself."""
    return find_problems(method, tiny_skeleton(architecture, context.task_type).get_model(), options, context)


def problems_with(method: Method[Any], architecture: str, context: Context, options: Any) -> list[Problem]:
    """Return why a method does not accept options on an architecture, as it says itself or as PEFT says."""
    import torch

    if problems := declared_problems(method, architecture, context, options):
        return problems
    try:
        with tiny_skeleton(architecture, context.task_type).borrow() as model, torch.device("meta"):
            checked_wrap(method, model, options, context)
    except Exception as error:  # it may need real weights: wrapping a model with weights will show that
        if isinstance(error, ValueError) and _raised_by_peft(error):
            return [Problem("options", " ".join(str(error).split())[:300])]
    return []


def _raised_by_peft(error: BaseException) -> bool:
    """Tell whether PEFT raised an error, and not the method's own code."""
    place = origin(error)
    return place is not None and "/peft/" in place.filename.replace("\\", "/")
