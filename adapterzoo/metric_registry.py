"""Finds the metrics: every module in ``adapterzoo.metrics``, and every installed plugin that brings some."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from importlib import metadata

import adapterzoo.metrics
from adapterzoo import hookspecs
from adapterzoo.errors import PluginError, did_you_mean
from adapterzoo.metric import RESERVED, Metric
from adapterzoo.registry import BUILT_IN, Broken, bring, reason


class Metrics(Mapping[str, Metric]):
    """The metrics by name, and the plugins whose metrics had to be left out."""

    def __init__(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        self._metrics: dict[str, Metric] = {}
        self._packages: dict[str, str] = {}
        brought, self.broken = bring([*_built_in(), *entry_points], "adapterzoo_metrics", _verify)
        # The built-in ones first, so that nobody takes their names.
        for entry_point, package, found in sorted(brought, key=lambda one: (one[1] != BUILT_IN, one[1], one[0].name)):
            try:
                self._add(found, package)
            except PluginError as error:
                self.broken.append(Broken(entry_point.name, package, reason(error)))

    def _add(self, metrics: Sequence[Metric], package: str) -> None:
        added: dict[str, Metric] = {}
        for metric in metrics:
            if metric.name in added:
                raise PluginError(f"it brings two metrics named '{metric.name}'")
            if metric.name in self._metrics:
                raise PluginError(f"'{metric.name}' is already the name of a metric from {self.package(metric.name)}")
            for other in (*self._metrics.values(), *added.values()):
                if both := set(metric.columns) & set(other.columns):
                    raise PluginError(f"column '{min(both)}' of '{metric.name}' is one of metric '{other.name}' too")
            added[metric.name] = metric
        self._metrics.update(added)
        self._packages.update(dict.fromkeys(added, package))

    def __getitem__(self, name: str) -> Metric:
        return self._metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._metrics))

    def __len__(self) -> int:
        return len(self._metrics)

    def hint(self, name: str) -> str:
        """What to say to somebody who asks for a metric that is not there."""
        left_out = [broken for broken in self.broken if name in (broken.plugin, broken.package)]
        known = {*self, *RESERVED}
        return f"Its plugin was left out: {left_out[0].reason}." if left_out else did_you_mean(name, known)

    def package(self, name: str) -> str:
        """The distribution that brought a metric."""
        return self._packages.get(name, BUILT_IN)


@cache
def metrics() -> Metrics:
    """The metrics of this environment, read once."""
    return Metrics(metadata.entry_points(group=hookspecs.PROJECT))


def lower_is_better(names: Iterable[str]) -> list[str]:
    """The columns of these metrics of which the lower value is the better one; not those of the evaluation's own."""
    chosen = [metrics()[name] for name in names if name not in RESERVED]
    return [column for metric in chosen if metric.better == "lower" for column in metric.columns]


def _built_in() -> list[metadata.EntryPoint]:
    """A module each; what begins with ``_`` is none."""
    package = adapterzoo.metrics
    names = [module.name for module in pkgutil.iter_modules(package.__path__) if not module.name.startswith("_")]
    return [metadata.EntryPoint(name, f"{package.__name__}.{name}", hookspecs.PROJECT) for name in names]


def _verify(metric: object) -> None:
    """Raises PluginError where an object is no metric, or would hide something else in the results."""
    from adapterzoo.comparison import Row  # which may ask for metrics itself

    if not isinstance(metric, Metric):
        raise PluginError(f"it returned {metric!r:.100}, which is no adapterzoo.Metric")
    if metric.name in RESERVED:
        raise PluginError(f"'{metric.name}' is a metric that the evaluation measures itself")
    if taken := sorted({*RESERVED, "test_loss", *Row.__dataclass_fields__} & set(metric.columns)):
        raise PluginError(f"'{metric.name}' has the column {taken[0]}, which means something else in the results")
