"""Find the rewards: those of every installed plugin, and every metric that compares answers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import metadata

from adapterzoo import hookspecs
from adapterzoo.entry_points import PluginRegistry
from adapterzoo.errors import PluginError
from adapterzoo.metrics.contract import Metric, per_example
from adapterzoo.metrics.registry import metrics
from adapterzoo.rewards.contract import Reward


class Rewards(PluginRegistry[Reward]):
    """The rewards by name, and the broken plugins whose rewards are left out."""

    kind = "reward or metric"

    def __init__(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        super().__init__()
        for name, metric in metrics().items():
            if metric.score is not None:
                self.add({name: _of_metric(metric)}, metrics().package(name))
        self.load(entry_points, "adapterzoo_rewards", _verify)


@cache
def rewards() -> Rewards:
    """Return the installed rewards; they are searched for only once."""
    return Rewards(metadata.entry_points(group=hookspecs.PROJECT))


def _of_metric(metric: Metric) -> Reward:
    """Return a metric as a reward: its first column, with the other sign if lower values are better."""
    sign = 1.0 if metric.better == "higher" else -1.0

    def score(answer: str, row: Mapping[str, str]) -> float:
        return sign * float(per_example(metric, row["answer"].strip(), answer)[metric.columns[0]])

    return Reward(metric.name, score, metric.summary, needs_answer=True)


def _verify(reward: object) -> None:
    """Raise PluginError if an object is not a reward."""
    if not isinstance(reward, Reward):
        raise PluginError(f"it returned {reward!r:.100}, which is not an adapterzoo.Reward")
