"""Count how many parameters a method trains with other values of its size option."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance.options import other_sizes
from adapterzoo.conformance.trial import Trial
from adapterzoo.errors import Problem

if TYPE_CHECKING:
    from adapterzoo.model.base import Base

VALUES = 3


def count_sizes(
    trial: Trial, base: Base, trainable: int, problems: Callable[[Any], Sequence[Problem]]
) -> dict[Any, int]:
    """Return value of the size option -> number of trained parameters, for VALUES values or as many as are accepted.

    A value that the method's findings call adjusted is left out: the layers are too small for it.

    Args:
        trial: the method with its default options.
        base: the base model.
        trainable: number of trained parameters with these options.
        problems: tells why the method does not accept options.
    """
    method, option = trial.method, trial.method.size_option or ""
    sizes = {getattr(trial.options, option): trainable}
    for options in other_sizes(trial.options, option):
        if len(sizes) == VALUES:
            break
        if problems(options):
            continue
        with base.borrow() as model:
            wrapped = trial.other("sizes", options=options).wrap(model)
            count = sum(parameter.numel() for parameter in wrapped.parameters() if parameter.requires_grad)
            findings: Any = method.findings(wrapped)  # of any type, if the property "findings" does not hold
            if not (isinstance(findings, dict) and option in findings.get("adjusted", {})):
                sizes[getattr(options, option)] = count
    return dict(sorted(sizes.items()))
