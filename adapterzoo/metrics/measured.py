"""The numbers that the evaluation measures itself, because they take the model and not its answers.

They are the likelihoods of the test split's references, and what became of general text. Every other number in the
table comes from a metric, which is a plugin: :mod:`adapterzoo.metrics.registry`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.metrics.contract import Better, ColumnStyle
from adapterzoo.results.result import FORGETTING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Values = NDArray[np.float64]

Records = Sequence[Mapping[str, Any]]
"""what the run wrote of each test example, or of each paragraph of general text"""


@dataclass(frozen=True)
class Measure:
    """A number that the evaluation measures itself."""

    name: str
    """as a recipe writes it under ``evaluate.metrics``"""
    column: str
    """its key in the results"""
    better: Better
    style: ColumnStyle
    of_examples: Callable[[Records], Values]
    """gives each example the number by which it moves the whole, so that their mean is the measure"""
    listed: bool = True
    """whether ``evaluate.metrics`` may name it; forgetting follows from ``evaluate.general_text``"""


def numbers(records: Records, key: str) -> Values:
    """Return one number of each record.

    Raises:
        ValueError: a number is not finite.
        KeyError: a record has none.
    """
    import numpy as np

    values = np.array([float(record[key]) for record in records])
    if not np.isfinite(values).all():
        raise ValueError(f"{key} is not finite")
    return values


def moved_by(parts: Values, wholes: Values) -> Values:
    """Return by how much each example moves sum(parts) / sum(wholes), to first order."""
    whole = parts.sum() / wholes.sum()
    moved: Values = whole + (parts - whole * wholes) / wholes.mean()
    return moved


def _losses(records: Records) -> Values:
    return moved_by(numbers(records, "loss"), numbers(records, "tokens"))


def _perplexities(records: Records) -> Values:
    import numpy as np

    losses = _losses(records)
    # To first order, a loss that is higher by d is a perplexity that is higher by the share d.
    perplexities: Values = np.exp(losses.mean()) * (1 + losses - losses.mean())
    return perplexities


def _right_tokens(records: Records) -> Values:
    return moved_by(numbers(records, "right_tokens"), numbers(records, "tokens"))


def _forgotten(records: Records) -> Values:
    return moved_by(numbers(records, "loss") - numbers(records, "base_loss"), numbers(records, "tokens"))


MEASURES = (
    Measure(
        "loss", "test_loss", "lower", ColumnStyle("loss", ".3f", bounds=(0.0, math.inf), drop=5), _losses,
    ),
    Measure(
        "perplexity", "perplexity", "lower", ColumnStyle("perpl.", ".3g", bounds=(1.0, math.inf), wide=True),
        _perplexities,
    ),
    Measure(
        "token_accuracy", "token_accuracy", "higher",
        ColumnStyle("tokens", ".3f", "tokens: share of learned tokens that the model ranks first", (0.0, 1.0)),
        _right_tokens,
    ),
    Measure(
        FORGETTING, FORGETTING, "lower",
        ColumnStyle("forgot", "+.3f", "forgot: loss on general text, more than the base's", drop=8),
        _forgotten, listed=False,
    ),
)  # fmt: skip
BY_COLUMN = {measure.column: measure for measure in MEASURES}
MEASURED_NAMES = frozenset(measure.name for measure in MEASURES if measure.listed)
"""what ``evaluate.metrics`` may name beside the metrics"""
