"""Describe the metrics that the evaluation measures itself, because they need the model and not its answers.

They are the likelihood of the test split's references, and forgetting. Every other metric is a plugin; see
:mod:`adapterzoo.metrics.registry`.
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
"""records that the run wrote, one for each test example or each paragraph of the general text"""
RECORD_KEYS = frozenset({"index", "prompt", "reference", "prediction", "loss", "tokens", "right_tokens"})
"""keys of the record of a test example, beside the columns of metrics"""


@dataclass(frozen=True)
class Measure:
    """A metric that the evaluation measures itself."""

    name: str
    """name in a recipe under ``evaluate.metrics``"""
    column: str
    """key in the results"""
    better: Better
    style: ColumnStyle
    of_examples: Callable[[Records], Values]
    """returns the contribution of each record; the metric is the mean of all contributions"""
    listed: bool = True
    """whether ``evaluate.metrics`` may name it; forgetting is measured if ``evaluate.general_text`` is given"""


def numbers(records: Records, key: str) -> Values:
    """Return the number that each record has under a key.

    Raises:
        ValueError: a number is not finite.
        KeyError: a record does not have the key.
    """
    import numpy as np

    values = np.array([float(record[key]) for record in records])
    if not np.isfinite(values).all():
        raise ValueError(f"{key} is not finite")
    return values


def ratio_parts(parts: Values, sizes: Values) -> Values:
    """Return the contribution of each example to sum(parts) / sum(sizes), so that their mean is this ratio.

    The contributions are a linear approximation; only their mean is exact.
    """
    ratio = parts.sum() / sizes.sum()
    values: Values = ratio + (parts - ratio * sizes) / sizes.mean()
    return values


def _losses(records: Records) -> Values:
    return ratio_parts(numbers(records, "loss"), numbers(records, "tokens"))


def _perplexities(records: Records) -> Values:
    import numpy as np

    losses = _losses(records)
    # Use the linear approximation exp(loss + d) = exp(loss) * (1 + d) for small differences d.
    perplexities: Values = np.exp(losses.mean()) * (1 + losses - losses.mean())
    return perplexities


def _right_tokens(records: Records) -> Values:
    return ratio_parts(numbers(records, "right_tokens"), numbers(records, "tokens"))


def _forgotten(records: Records) -> Values:
    return ratio_parts(numbers(records, "loss") - numbers(records, "base_loss"), numbers(records, "tokens"))


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
        ColumnStyle("forgot", "+.3f", "forgot: rise of the loss on general text over the base", drop=8),
        _forgotten, listed=False,
    ),
)  # fmt: skip
BY_COLUMN = {measure.column: measure for measure in MEASURES}
MEASURED_NAMES = frozenset(measure.name for measure in MEASURES if measure.listed)
"""names that ``evaluate.metrics`` may list in addition to those of the plugins' metrics"""
