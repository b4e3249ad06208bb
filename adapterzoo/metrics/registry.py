"""Find the metrics: those of every module in ``adapterzoo.metrics.built_in`` and of every installed plugin."""

from __future__ import annotations

import pkgutil
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import metadata

from adapterzoo import hookspecs
from adapterzoo.entry_points import BUILT_IN, PluginRegistry
from adapterzoo.errors import PluginError
from adapterzoo.metrics import built_in
from adapterzoo.metrics.contract import ColumnStyle, Metric, per_example
from adapterzoo.metrics.measured import BY_COLUMN, MEASURED_NAMES, MEASURES, RECORD_KEYS
from adapterzoo.results.row import Row


class Metrics(PluginRegistry[Metric]):
    """The metrics by name, and the broken plugins whose metrics are left out."""

    kind = "metric"

    def __init__(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        super().__init__()
        self.load([*_built_in(), *entry_points], "adapterzoo_metrics", _verify)

    def _add(self, metrics: Sequence[Metric], package: str) -> None:
        added: dict[str, Metric] = {}
        for metric in metrics:
            if metric.name in added:
                raise PluginError(f"it has two metrics named '{metric.name}'")
            if metric.name in self:
                raise PluginError(f"'{metric.name}' is already the name of a metric from {self.package(metric.name)}")
            for known in (*self.values(), *added.values()):
                if both := set(metric.columns) & set(known.columns):
                    what = f"column '{min(both)}' of metric '{metric.name}' is already a column"
                    raise PluginError(f"{what} of metric '{known.name}'")
            added[metric.name] = metric
        self.add(added, package)

    def hint(self, name: str, more: Iterable[str] = MEASURED_NAMES) -> str:
        """Return a hint for a user who asked for a metric that is unknown."""
        return super().hint(name, more)


@cache
def metrics() -> Metrics:
    """Return the installed metrics; they are searched for only once."""
    return Metrics(metadata.entry_points(group=hookspecs.PROJECT))


def metric_packages(names: Iterable[str]) -> list[str]:
    """Return the third-party packages of these metrics, because another version may score differently."""
    packages = {metrics().package(name) for name in names if name not in MEASURED_NAMES}
    return sorted(packages - {BUILT_IN})


def lower_is_better_columns(names: Iterable[str]) -> list[str]:
    """Return the columns of these metrics whose lower value is better, without those the evaluation measures itself."""
    chosen = [metrics()[name] for name in names if name not in MEASURED_NAMES]
    return [column for metric in chosen if metric.better == "lower" for column in metric.columns]


def lower_is_better(name: str) -> bool:
    """Tell whether the lower value of a metric is better; the evaluation may measure the metric itself."""
    measure = next((measure for measure in MEASURES if measure.name == name), None)
    return measure.better == "lower" if measure else bool(lower_is_better_columns([name]))


def style(column: str) -> ColumnStyle:
    """Return how the table shows a metric's column; the title of an unknown column is its name."""
    return styles().get(column, ColumnStyle(column))


def styles() -> dict[str, ColumnStyle]:
    """Return the style of each metric's column that has one."""
    measured = {column: measure.style for column, measure in BY_COLUMN.items()}
    return {name: style for metric in metrics().values() for name, style in metric.styles.items()} | measured


def compares_answers(name: str) -> bool:
    """Tell whether a metric compares answers with references; the others are measured by the task itself."""
    return name in metrics() and metrics()[name].score is not None


def is_built_in(name: str) -> bool:
    """Tell whether a metric comes with adapterzoo."""
    return name in MEASURED_NAMES or metrics().package(name) == BUILT_IN


def right_or_wrong(name: str) -> bool:
    """Tell whether a metric only says right or wrong; if it has a score, by the type of one score."""
    if not compares_answers(name):
        return name in metrics() and metrics()[name].right_or_wrong
    metric = metrics()[name]
    try:
        return metric.total is None and all(isinstance(value, bool) for value in per_example(metric, "a", "a").values())
    except PluginError:
        return False


def _built_in() -> list[metadata.EntryPoint]:
    """Return an entry point for each module of built-in metrics; modules that begin with ``_`` have none."""
    names = [module.name for module in pkgutil.iter_modules(built_in.__path__) if not module.name.startswith("_")]
    return [metadata.EntryPoint(name, f"{built_in.__name__}.{name}", hookspecs.PROJECT) for name in names]


def _verify(metric: object) -> None:
    """Raise PluginError if an object is not a metric, or if it has a name or column that means something else."""
    if not isinstance(metric, Metric):
        raise PluginError(f"it returned {metric!r:.100}, which is not an adapterzoo.Metric")
    if metric.name in MEASURED_NAMES:
        raise PluginError(f"'{metric.name}' is a metric that the evaluation measures itself")
    if taken := sorted({*MEASURED_NAMES, *BY_COLUMN, *RECORD_KEYS, *Row.__dataclass_fields__} & set(metric.columns)):
        raise PluginError(f"'{metric.name}' has the column {taken[0]}, which means something else in the results")
