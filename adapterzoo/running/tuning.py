"""Equal tuning: every method is tried with the same number of settings, and chosen by the validation rows alone.

All methods get the same points of the same ranges, spread evenly (Halton's sequence), after their own default where
that lies within: none profits from a luckier draw. Optuna's journal keeps the trials, each written as it ends.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from adapterzoo.digests import text_digest
from adapterzoo.errors import AdapterzooError, NotFiniteError
from adapterzoo.prepare.plan import MethodCell
from adapterzoo.prepare.settings import chosen, points, space
from adapterzoo.recipe.tune import Range
from adapterzoo.results.result import Trial, Tuning

JOURNAL = "tuning.journal"


@dataclass(frozen=True)
class Score:
    """What a setting came to on the validation rows."""

    metric: str
    value: float
    loss: float
    """decides between settings of the same value"""


Try = Callable[[MethodCell, int], Score]
"""trains a cell with other settings and measures it on the validation rows; given the number of the trial"""


def tune(cell: MethodCell, folder: Path, lower_is_better: bool, attempt: Try) -> Tuning:
    """Try every point that was not tried yet.

    Args:
        cell: with its ranges.
        folder: of the label; the trials are kept there.
        lower_is_better: of the metric that decides.
        attempt: trains and measures one setting; what it raises is that trial's failure.

    Raises:
        AdapterzooError: all trials failed.
    """
    study = _study(cell, folder)
    known = {_key(trial["settings"]): trial for trial in _kept(study)}
    trials: list[Trial] = []
    for number, settings in enumerate(points(cell)):
        trial = known.get(_key(settings))
        if trial is None or trial["score"] is None:  # what kept it from working may be gone
            trial = _try(cell, settings, number, attempt)
            _write(study, cell, trial)
        trials.append(trial)
    scored = [trial for trial in trials if trial["score"] is not None]
    if not scored:
        raise AdapterzooError(f"all {len(trials)} trials failed, the last one: {trials[-1]['error']}")
    sign = 1 if lower_is_better else -1
    best = min(scored, key=lambda trial: (sign * (trial["score"] or 0.0), trial["loss"] or 0.0))
    return Tuning(metric=best["metric"] or "", trials=trials, chosen=best["settings"], space=space(cell))


def _study(cell: MethodCell, folder: Path) -> Any:
    """Where Optuna keeps the trials of a cell.

    Raises:
        AdapterzooError: it cannot be read.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder.resolve() / JOURNAL
    # Other runs are kept out of the whole folder: a lock is one that a killed run has left.
    journal.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    try:
        storage = JournalStorage(JournalFileBackend(str(journal)))
        return optuna.create_study(storage=storage, study_name=_name(cell), load_if_exists=True)
    except (OSError, ValueError, KeyError, TypeError):
        what = f"{folder / JOURNAL} is damaged. Remove it: its trials are made again"
        raise AdapterzooError(what) from None


def _kept(study: Any) -> list[Trial]:
    """Return the trials in the journal that are as they were written; those that were damaged are made again."""
    attributes = [kept.user_attrs for kept in study.get_trials(deepcopy=False)]
    return [kept["trial"] for kept in attributes if "trial" in kept and kept.get("digest") == _digest(kept["trial"])]


def _digest(trial: Trial) -> str:
    return text_digest(json.dumps(trial, sort_keys=True))


def _try(cell: MethodCell, settings: dict[str, Any], number: int, attempt: Try) -> Trial:
    begun = time.perf_counter()
    metric = value = loss = failure = None
    try:
        score = attempt(chosen(cell, settings), number)
        if not (isfinite(score.value) and isfinite(score.loss)):
            raise NotFiniteError(f"{score.metric} is {score.value}, the loss {score.loss}")
        metric, value, loss = score.metric, score.value, score.loss
    except (Exception, SystemExit) as error:  # whatever a method does wrong with a setting is that trial's failure
        failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    seconds = time.perf_counter() - begun
    return Trial(settings=settings, metric=metric, score=value, loss=loss, seconds=seconds, error=failure)


def _write(study: Any, cell: MethodCell, trial: Trial) -> None:
    """Put down a trial that has ended, in one line of the journal: it is there or it is not."""
    from optuna.trial import TrialState, create_trial

    study.add_trial(
        create_trial(
            state=TrialState.FAIL if trial["score"] is None else TrialState.COMPLETE,
            value=trial["score"],
            params=trial["settings"],
            distributions={name: _distribution(one) for name, one in cell.ranges.items()},
            user_attrs={"trial": trial, "digest": _digest(trial)},
        )
    )


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _distribution(one: Range) -> Any:
    """The range as Optuna's own tools show it."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if one.values is not None:
        return CategoricalDistribution(one.values)
    if isinstance(one.low, int) and isinstance(one.high, int):
        return IntDistribution(one.low, one.high)
    low, high = float(one.low or 0), float(one.high or 0)
    return FloatDistribution(low, high, log=low > 0 and high / low >= 10)


def _name(cell: MethodCell) -> str:
    """Of the study: another one where anything that its trials hang on is another."""
    fixed = {name: value for name, value in cell.options.items() if name not in cell.ranges}
    described = [
        cell.method,
        cell.plugin,
        cell.quantization,
        fixed,
        cell.learning_rate,
        cell.seed,
        space(cell),
        points(cell),
    ]
    return f"{cell.label}-{hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]}"
