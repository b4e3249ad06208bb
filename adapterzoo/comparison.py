"""The comparison of finished results: one row a label. No torch in here."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.results import SETTINGS, Result, read_results

if TYPE_CHECKING:
    from pandas import DataFrame

# Which of two values is the better one; of the rest (learning rate, base) neither is, and of a metric the higher,
# unless the result says otherwise.
HIGHER, LOWER = max, min
BETTER = {
    "test_loss": LOWER,
    "perplexity": LOWER,
    "trainable_params": LOWER,
    "adapter_bytes": LOWER,
    "train_seconds": LOWER,
    "tokens_per_second": HIGHER,
    "peak_memory_bytes": LOWER,
}
# What has no say in the order of rows while answers are compared.
LIKELIHOOD = ("test_loss", "perplexity", "token_accuracy")


@dataclass(frozen=True)
class Row:
    """All seeds of one label, as means over those that finished."""

    label: str
    method: str | None
    status: str
    error: str | None
    seeds: list[int]
    metrics: dict[str, float]
    trainable_params: int
    total_params: int
    adapter_bytes: int
    train_seconds: float | None
    tokens_per_second: float | None
    peak_memory_bytes: float | None
    learning_rate: float | None
    base: str
    options: dict[str, Any]
    lower_is_better: list[str]
    adjusted: dict[str, str]
    """options that could not be had in every layer -> what became of them"""

    def value(self, column: str) -> Any:
        """The value of a metric or of any other column."""
        return self.metrics.get(column) if column not in self.__dataclass_fields__ else getattr(self, column)

    def record(self) -> dict[str, Any]:
        """As in ``compare --format json``."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


class Comparison:
    """Rows in order. Shows itself as a table; ``frame()`` gives a pandas DataFrame."""

    def __init__(self, rows: Sequence[Row], results: Sequence[Result]) -> None:
        self.rows = list(rows)
        self.results = list(results)

    @property
    def metrics(self) -> list[str]:
        """The columns of all metrics, those that compare answers first; rows are in the order of the first."""
        return metric_columns(self.rows)

    def better(self, column: str) -> Callable[..., Any] | None:
        """``max`` or ``min``; None where there is no better and worse."""
        return better(self.rows, column)

    def best(self, column: str) -> Any:
        """The best value of a column; None where there is no better and worse."""
        counts = [row for row in self.rows if row.status == "ok" and (column in row.metrics or row.method is not None)]
        values = [row.value(column) for row in counts if row.value(column) is not None]
        choose = self.better(column)
        return choose(values) if values and choose else None

    def records(self) -> dict[str, Any]:
        """As in ``compare --format json``."""
        stacks = {str(sorted((r.environment.get("packages") or {}).items())): r.environment for r in self.results}
        return {
            "schema": 1,
            "rows": [row.record() for row in self.rows],
            "recipe_hashes": sorted({result.recipe_hash for result in self.results}),
            "data_fingerprints": sorted({result.data_fingerprint for result in self.results}),
            "environments": list(stacks.values()),
        }

    def frame(self) -> DataFrame:
        """The rows as a pandas DataFrame, metrics as columns of their own."""
        from pandas import DataFrame

        flat = [{**{k: v for k, v in row.record().items() if k != "metrics"}, **row.metrics} for row in self.rows]
        return DataFrame(flat).set_index("label")

    def __str__(self) -> str:
        from adapterzoo.table import plain

        return plain(self)

    def _repr_html_(self) -> str:
        return str(self.frame().to_html())


def compare(*folders: str | Path, sort: str | None = None) -> Comparison:
    """The comparison of everything that is on disk in one or several output folders.

    Args:
        sort: a column to order by, best first; by default the first metric there is.

    Raises:
        UserError: a folder holds no results, results cannot be read, or do not belong in one table.
    """
    found = [(Path(folder), read_results(Path(folder))) for folder in folders]
    results = [result for _, group in found for result in group]
    _check_comparable([(folder, result) for folder, group in found for result in group])
    labels: dict[str, list[Result]] = {}
    for result in results:
        group = labels.setdefault(result.label, [])
        # The untouched base is the same in every folder of one recipe.
        if result.method is not None or not group:
            group.append(result)
    return Comparison(in_order([_row(group) for group in labels.values()], sort), results)


def in_order(rows: Iterable[Row], sort: str | None) -> list[Row]:
    """Best first; rows without the value last, in alphabetical order.

    Raises:
        UserError: there is no such column.
    """
    rows = sorted(rows, key=lambda row: row.label)
    if sort is None:
        sort = next(iter(metric_columns(rows)), "label")
    known = {*metric_columns(rows), *Row.__dataclass_fields__} - {"metrics", "options", "adjusted", "lower_is_better"}
    if sort not in known:
        raise UserError.at(f"--sort {sort}", "there is no such column.", did_you_mean(sort, known))
    with_value = [row for row in rows if row.value(sort) is not None]
    without = [row for row in rows if row.value(sort) is None]
    return sorted(with_value, key=lambda row: row.value(sort), reverse=better(rows, sort) is HIGHER) + without


def metric_columns(rows: Iterable[Row]) -> list[str]:
    """The columns of all metrics: those that compare answers, as the recipe has them, and then likelihoods."""
    names = list(dict.fromkeys(name for row in rows for name in row.metrics))
    return sorted(names, key=lambda name: LIKELIHOOD.index(name) + 1 if name in LIKELIHOOD else 0)


def better(rows: Sequence[Row], column: str) -> Callable[..., Any] | None:
    """``max`` or ``min`` of a column's values; None where there is no better and worse."""
    if column in BETTER or not any(column in row.metrics for row in rows):
        return BETTER.get(column)
    return LOWER if any(column in row.lower_is_better for row in rows) else HIGHER


def _row(group: Sequence[Result]) -> Row:
    done = [result for result in group if result.ok and result.metrics]
    failed = [result for result in group if not result.ok]
    shown = done or failed
    names = [name for name in shown[0].metrics if all(name in result.metrics for result in done)]
    return Row(
        label=shown[0].label,
        method=shown[0].method,
        status="failed" if failed else "ok",
        error="; ".join(
            f"seed {result.seed}: {result.error}" if len(group) > 1 else str(result.error) for result in failed
        )
        or None,
        seeds=[result.seed for result in shown],
        metrics={name: fmean(result.metrics[name] for result in done) for name in names},
        trainable_params=shown[0].trainable_params,
        total_params=shown[0].total_params,
        adapter_bytes=shown[0].adapter_bytes,
        train_seconds=_mean(result.train_seconds for result in done),
        tokens_per_second=_mean(result.tokens_per_second for result in done),
        peak_memory_bytes=_mean(result.peak_memory_bytes for result in done),
        learning_rate=shown[0].learning_rate,
        base=shown[0].base,
        options=shown[0].options,
        lower_is_better=shown[0].lower_is_better,
        adjusted=_texts(shown[0].findings.get("adjusted")),
    )


def _texts(found: Any) -> dict[str, str]:
    """What a method, whoever wrote it, says it adjusted."""
    return {str(option): str(change) for option, change in found.items()} if isinstance(found, dict) else {}


def _mean(values: Iterable[float | None]) -> float | None:
    numbers = [value for value in values if value is not None]
    return fmean(numbers) if numbers else None


def _check_comparable(found: Sequence[tuple[Path, Result]]) -> None:
    """Raises UserError where results do not belong in one table, or those of one label are not of one thing."""
    first_folder, first = found[0]
    seen: dict[str, tuple[Path, Result]] = {}
    cells: dict[tuple[str, int], Path] = {}
    for folder, result in found:
        for name, what in (("data_fingerprint", "data"), ("recipe_hash", "training and evaluation")):
            if getattr(result, name) != getattr(first, name):
                raise UserError.at(
                    str(folder / result.label),
                    f"its {what} are not those of {first_folder / first.label}.",
                    "Rows of both cannot be ranked against each other.",
                )
        if result.method is None or not result.ok:
            continue
        other_folder, other = seen.setdefault(result.label, (folder, result))
        for name in SETTINGS:
            if getattr(result, name) != getattr(other, name):
                raise UserError.at(
                    str(folder / result.label / f"seed-{result.seed}"),
                    f"'{result.label}' is not the '{other.label}' of {other_folder} with seed {other.seed}: "
                    f"{name} is {getattr(result, name)!r} here, {getattr(other, name)!r} there.",
                )
        twice = cells.setdefault((result.label, result.seed), folder)
        if twice is not folder:
            raise UserError.at(str(folder), f"'{result.label}' with seed {result.seed} is in {twice} as well.")
