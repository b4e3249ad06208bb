"""Finds the metrics: every module in ``adapterzoo.metrics.built_in``, and every installed plugin that brings some."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import metadata

from adapterzoo import hookspecs
from adapterzoo.entry_points import BUILT_IN, BrokenPlugin, PluginRegistry, load_plugins, reason
from adapterzoo.errors import PluginError
from adapterzoo.metrics import built_in
from adapterzoo.metrics.contract import ColumnStyle, Metric, per_example
from adapterzoo.metrics.measured import BY_COLUMN, MEASURED_NAMES, MEASURES
from adapterzoo.results.row import Row


class Metrics(PluginRegistry[Metric]):
    """The metrics by name, and the plugins whose metrics had to be left out."""

    def __init__(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        super().__init__()
        loaded, self.broken = load_plugins([*_built_in(), *entry_points], "adapterzoo_metrics", _verify)
        # The built-in ones first, so that nobody takes their names.
        for entry_point, package, found in sorted(loaded, key=lambda one: (one[1] != BUILT_IN, one[1], one[0].name)):
            try:
                self._add(found, package)
            except PluginError as error:
                self.broken.append(BrokenPlugin(entry_point.name, package, reason(error)))

    def _add(self, metrics: Sequence[Metric], package: str) -> None:
        added: dict[str, Metric] = {}
        for metric in metrics:
            if metric.name in added:
                raise PluginError(f"it brings two metrics named '{metric.name}'")
            if metric.name in self:
                raise PluginError(f"'{metric.name}' is already the name of a metric from {self.package(metric.name)}")
            for other in (*self.values(), *added.values()):
                if both := set(metric.columns) & set(other.columns):
                    raise PluginError(f"column '{min(both)}' of '{metric.name}' is one of metric '{other.name}' too")
            added[metric.name] = metric
        self.add(added, package)

    def hint(self, name: str, more: Iterable[str] = MEASURED_NAMES) -> str:
        """What to say to somebody who asks for a metric that is not there."""
        return super().hint(name, more)


@cache
def metrics() -> Metrics:
    """The metrics of this environment, read once."""
    return Metrics(metadata.entry_points(group=hookspecs.PROJECT))


def metric_packages(names: Iterable[str]) -> list[str]:
    """Return the third-party packages that bring these metrics: another version may score otherwise."""
    found = {metrics().package(name) for name in names if name not in MEASURED_NAMES}
    return sorted(found - {BUILT_IN})


def lower_is_better(names: Iterable[str]) -> list[str]:
    """The columns of these metrics of which the lower value is the better one; not those of the evaluation's own."""
    chosen = [metrics()[name] for name in names if name not in MEASURED_NAMES]
    return [column for metric in chosen if metric.better == "lower" for column in metric.columns]


def lower_is_better_by(name: str) -> bool:
    """Whether the lower value of a metric is the better one, the evaluation's own among them."""
    own = next((measure for measure in MEASURES if measure.name == name), None)
    return own.better == "lower" if own else bool(lower_is_better([name]))


def style(column: str) -> ColumnStyle:
    """Return how a column reads in the table, whoever brought it; of one that nobody knows any more, its name."""
    return styles().get(column, ColumnStyle(column))


def styles() -> dict[str, ColumnStyle]:
    """Return how each column of a metric reads that says so."""
    own = {column: measure.style for column, measure in BY_COLUMN.items()}
    return {name: found for metric in metrics().values() for name, found in metric.styles.items()} | own


def right_or_wrong(name: str) -> bool:
    """Whether a metric calls an answer right or wrong, and gives nothing between; as seen, for none says so."""
    if name in MEASURED_NAMES:
        return False
    metric = metrics()[name]
    try:
        return metric.total is None and all(isinstance(value, bool) for value in per_example(metric, "a", "a").values())
    except PluginError:
        return False


def _built_in() -> list[metadata.EntryPoint]:
    """A module each; what begins with ``_`` is none."""
    names = [module.name for module in pkgutil.iter_modules(built_in.__path__) if not module.name.startswith("_")]
    return [metadata.EntryPoint(name, f"{built_in.__name__}.{name}", hookspecs.PROJECT) for name in names]


def _verify(metric: object) -> None:
    """Raises PluginError where an object is no metric, or would hide something else in the results."""
    if not isinstance(metric, Metric):
        raise PluginError(f"it returned {metric!r:.100}, which is no adapterzoo.Metric")
    if metric.name in MEASURED_NAMES:
        raise PluginError(f"'{metric.name}' is a metric that the evaluation measures itself")
    if taken := sorted({*MEASURED_NAMES, *BY_COLUMN, *Row.__dataclass_fields__} & set(metric.columns)):
        raise PluginError(f"'{metric.name}' has the column {taken[0]}, which means something else in the results")
