"""Measure the untouched base model once for each quantization: its results are used by all cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import AdapterzooError, failure_reason
from adapterzoo.machine import ranks, settling
from adapterzoo.machine.stopwatch import Stopwatch
from adapterzoo.prepare.plan import Cell, MethodCell
from adapterzoo.prepare.prepared import Prepared

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.model.base import Base
    from adapterzoo.tasks.evaluation import Likelihood

GENERAL_TEXT = "the general text could not be measured"
EXAMPLES = "the untouched base model could not be asked about the examples"


@dataclass(frozen=True)
class OfBase:
    """The measurements of an untouched base model that the cells with its quantization use."""

    general: list[Likelihood] | AdapterzooError | None = None
    """likelihoods of the general text, or why they are not known; None if the recipe has no general text"""
    examples: Any = None
    """what the examples asked the base model; an AdapterzooError if it could not be asked"""

    @classmethod
    def unknown(cls, why: str) -> OfBase:
        """Return that nothing is known, for a reason."""
        return cls(AdapterzooError(f"{GENERAL_TEXT}: {why}"), AdapterzooError(f"{EXAMPLES}: {why}"))

    @classmethod
    def measured(cls, prepared: Prepared, base: Base, clock: Stopwatch) -> OfBase:
        """Measure an untouched base model."""
        general, encoded, settings = prepared.general, prepared.encoded, prepared.recipe.evaluate
        known: dict[str, Any] = {}
        if general is not None:
            with clock("general text"):
                known["general"] = _measured(base, general.measure, GENERAL_TEXT)
        if encoded.asks_base:
            with clock("base model"):
                known["examples"] = _measured(base, lambda model: encoded.ask_base(model, settings), EXAMPLES)
        return cls(**known)


def needs_base(prepared: Prepared, cell: Cell) -> bool:
    """Tell whether a cell needs :class:`OfBase`; the untouched base model needs no general text."""
    return prepared.encoded.asks_base or (prepared.general is not None and isinstance(cell, MethodCell))


def informed(prepared: Prepared, cell: Cell, of_base: OfBase | None) -> Prepared:
    """Return the run for a cell, with what its examples asked the untouched base model.

    Raises:
        AdapterzooError: what the cell needs to know of the base model could not be measured.
    """
    if not needs_base(prepared, cell):
        return prepared
    assert of_base is not None
    if isinstance(cell, MethodCell) and isinstance(of_base.general, AdapterzooError) and prepared.general is not None:
        raise of_base.general
    if not prepared.encoded.asks_base:
        return prepared
    if isinstance(of_base.examples, AdapterzooError):
        raise of_base.examples
    return replace(prepared, encoded=prepared.encoded.with_base(of_base.examples))


def _measured(base: Base, measure: Callable[[nn.Module], Any], problem: str) -> Any:
    """Return what is measured of an untouched base model, or an AdapterzooError that says why it is not known."""
    try:
        with settling.failing_together(), base.borrow() as model, ranks.spreading():
            return measure(model)
    except Exception as error:  # a model's own code may raise anything
        return AdapterzooError(f"{problem}: {failure_reason(error)}")
