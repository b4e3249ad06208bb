"""Measure merged and exported adapters on the test rows of their run, and compare them with the adapters themselves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.adapters.finding import Adapter, Say
from adapterzoo.data.split import fingerprint
from adapterzoo.data_row import SPLIT_NAMES
from adapterzoo.errors import UserError
from adapterzoo.prepare.examples import encode_data, read_data
from adapterzoo.results.intact import changed_records, read_lines
from adapterzoo.results.store import PREDICTIONS
from adapterzoo.tasks.examples import Examples

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.comparison.statistics import Difference
    from adapterzoo.model.base import Base


class ScoreChange(NamedTuple):
    """The score of an adapter by one metric, and its score after it was merged or exported."""

    metric: str
    """column of the metric"""
    before: float
    """score of the adapter in its run"""
    after: float
    """score of the merged or exported adapter"""
    difference: Difference
    """score after minus score before, compared example by example"""


@dataclass(frozen=True)
class TestRows:
    """The test rows of a run."""

    __test__ = False  # pytest takes every class for tests whose name begins so

    encoded: Examples

    @classmethod
    def of(cls, adapter: Adapter, base: Base, say: Say) -> TestRows | None:
        """Read the rows of an adapter's run; return None, and say why, if they are not there any more.

        Args:
            adapter: the adapter.
            base: its base model, which some tasks ask about the rows.
            say: is called with the reason.
        """
        from adapterzoo.model import files
        from adapterzoo.model.config import load_config

        recipe = adapter.recipe
        try:
            recipe, splits = read_data(recipe, lambda message: None)
            known = adapter.result.fingerprints
            parts = {name: fingerprint([getattr(splits, name)]) for name in SPLIT_NAMES}
            if any(known.get(name, parts[name]) != parts[name] for name in parts):
                raise UserError.at("data", "the rows have changed since the run.")
            location = files.locate(recipe.model.name, say)
            config = load_config(recipe.model, location)
            encoded = encode_data(recipe, location, config, splits, lambda message: None)
        except UserError as error:
            say(f"not measured on the test rows: {error.problems[0]}")
            return None
        if encoded.asks_base:
            with base.borrow() as model:
                encoded = encoded.with_base(encoded.ask_base(model, recipe.evaluate))
        return cls(encoded)

    def change(self, adapter: Adapter, model: nn.Module, say: Say) -> list[ScoreChange]:
        """Return the changes of all metrics; none if the run's answers are damaged.

        Args:
            adapter: the adapter.
            model: the model that answers in its place.
            say: is called with the reason if nothing is returned.
        """
        from adapterzoo.tokens.shared_prefix import SharedPrefix

        folder = adapter.path.parent
        if PREDICTIONS in changed_records(folder, adapter.result):
            say(f"not measured on the test rows: {folder / PREDICTIONS} is not what the run wrote")
            return []
        prefix = SharedPrefix.of(model) if adapter.result.shared_prefix else None
        measured = self.encoded.evaluate(model, adapter.recipe.evaluate, prefix=prefix)
        records = [prediction.record() for prediction in measured.predictions]
        return score_changes(read_lines(folder / PREDICTIONS), records, list(measured.metrics))


def score_changes(
    before: Sequence[dict[str, Any]], after: Sequence[dict[str, Any]], metrics: Sequence[str]
) -> list[ScoreChange]:
    """Return how metrics differ between two lists of records of the same test examples."""
    from adapterzoo.comparison.scores import example_scores
    from adapterzoo.comparison.statistics import difference

    changes = []
    for metric in metrics:
        first, second = example_scores(metric, list(before)), example_scores(metric, list(after))
        paired = difference(
            (second.values - first.values)[None, :], right_or_wrong=first.right_or_wrong and second.right_or_wrong
        )
        changes.append(ScoreChange(metric, float(first.values.mean()), float(second.values.mean()), paired))
    return changes
