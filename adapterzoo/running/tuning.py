"""Tune every method equally: try the same number of settings of each, and choose by the validation rows alone.

All methods get the same settings from the same ranges, spread evenly by Halton's sequence, so no method has more
luck than another. A method's own default is tried first if it is in the ranges. Optuna's journal keeps the trials; each
trial is written as soon as it ends.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import isfinite
from pathlib import Path
from typing import Any

from adapterzoo.digests import text_digest
from adapterzoo.errors import AdapterzooError, NotFiniteError, is_disk_full
from adapterzoo.prepare.plan import MethodCell
from adapterzoo.prepare.settings import points, space, with_settings
from adapterzoo.recipe.tune import Range
from adapterzoo.results.result import Trial, Tuning

JOURNAL = "tuning.journal"


@dataclass(frozen=True)
class TrialScore:
    """The score of one setting on the validation rows."""

    metric: str
    value: float
    loss: float
    """decides between settings with the same value"""


RunTrial = Callable[[MethodCell, int], TrialScore]
"""is called with a cell that has a trial's settings, and the trial's number; trains the cell and measures it on the
validation rows"""


def tune(cell: MethodCell, folder: Path, lower_is_better: bool, run_trial: RunTrial) -> Tuning:
    """Try every setting of a cell that was not tried yet; return all trials and the best one's settings.

    Args:
        cell: the cell with its ranges.
        folder: folder of the cell's label, where the trials are kept.
        lower_is_better: whether a lower value of the metric is better.
        run_trial: trains and measures one setting; if it raises, the trial has failed.

    Raises:
        AdapterzooError: all trials failed, or the kept trials cannot be read.
    """
    study = _study(cell, folder)
    known = {_key(trial["settings"]): trial for trial in _kept_trials(study)}
    trials: list[Trial] = []
    for number, settings in enumerate(points(cell)):
        trial = known.get(_key(settings))
        if trial is None or trial["score"] is None:  # the cause of an earlier failure may be gone
            trial = _try(cell, settings, number, run_trial)
            _write(study, cell, trial)
        trials.append(trial)
    scored = [trial for trial in trials if trial["score"] is not None]
    if not scored:
        raise AdapterzooError(f"all {len(trials)} trials failed, the last one: {trials[-1]['error']}")
    sign = 1 if lower_is_better else -1
    best = min(scored, key=lambda trial: (sign * (trial["score"] or 0.0), trial["loss"] or 0.0))
    return Tuning(metric=best["metric"] or "", trials=trials, chosen=best["settings"], space=space(cell))


def _study(cell: MethodCell, folder: Path) -> Any:
    """Return the Optuna study that keeps the trials of a cell.

    Raises:
        AdapterzooError: its journal cannot be read.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    journal = folder.resolve() / JOURNAL
    # Remove the lock of a run that was killed; another run cannot hold it, because the whole folder is locked.
    journal.with_name(f"{JOURNAL}.lock").unlink(missing_ok=True)
    try:
        _cut_last_line(journal)
        storage = JournalStorage(JournalFileBackend(str(journal)))
        return optuna.create_study(storage=storage, study_name=_study_name(cell), load_if_exists=True)
    except (OSError, ValueError, KeyError, TypeError):
        what = f"{folder / JOURNAL} is damaged. Remove it; its trials are then run again"
        raise AdapterzooError(what) from None


def _cut_last_line(journal: Path) -> None:
    """Remove a last line without its end, which is left if a run is killed or the disk is full while it is written."""
    if journal.exists() and not (content := journal.read_bytes()).endswith(b"\n"):
        os.truncate(journal, content.rfind(b"\n") + 1)


def _kept_trials(study: Any) -> list[Trial]:
    """Return the trials in the journal, without those that were changed after they were written."""
    kept = [trial.user_attrs for trial in study.get_trials(deepcopy=False)]
    return [
        attributes["trial"]
        for attributes in kept
        if "trial" in attributes and attributes.get("digest") == _digest(attributes["trial"])
    ]


def _digest(trial: Trial) -> str:
    return text_digest(json.dumps(trial, sort_keys=True))


def _try(cell: MethodCell, settings: dict[str, Any], number: int, run_trial: RunTrial) -> Trial:
    begun = time.perf_counter()
    metric = value = loss = failure = None
    try:
        score = run_trial(with_settings(cell, settings), number)
        if not (isfinite(score.value) and isfinite(score.loss)):
            raise NotFiniteError(f"{score.metric} is {score.value}, the loss {score.loss}")
        metric, value, loss = score.metric, score.value, score.loss
    except (Exception, SystemExit) as error:  # an error of a method must only fail this trial
        if is_disk_full(error):
            raise
        failure = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    seconds = time.perf_counter() - begun
    return Trial(settings=settings, metric=metric, score=value, loss=loss, seconds=seconds, error=failure)


def _write(study: Any, cell: MethodCell, trial: Trial) -> None:
    """Write a trial that has ended into the journal, in one line, so that a killed run leaves no half trial."""
    from optuna.trial import TrialState, create_trial

    study.add_trial(
        create_trial(
            state=TrialState.FAIL if trial["score"] is None else TrialState.COMPLETE,
            value=trial["score"],
            params=trial["settings"],
            distributions={name: _distribution(values) for name, values in cell.ranges.items()},
            user_attrs={"trial": trial, "digest": _digest(trial)},
        )
    )


def _key(settings: Mapping[str, Any]) -> str:
    return json.dumps(settings, sort_keys=True)


def _distribution(tuned: Range) -> Any:
    """Return a range as an Optuna distribution, which Optuna's own tools can show."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if tuned.values is not None:
        return CategoricalDistribution(tuned.values)
    if isinstance(tuned.low, int) and isinstance(tuned.high, int):
        return IntDistribution(tuned.low, tuned.high)
    low, high = float(tuned.low or 0), float(tuned.high or 0)
    return FloatDistribution(low, high, log=low > 0 and high / low >= 10)


def _study_name(cell: MethodCell) -> str:
    """Return the name of a cell's study, with a hash of everything that its trials depend on."""
    fixed = {name: value for name, value in cell.options.items() if name not in cell.ranges}
    depends_on = [
        cell.method,
        cell.plugin,
        cell.quantization,
        fixed,
        cell.learning_rate,
        cell.seed,
        space(cell),
        points(cell),
    ]
    return f"{cell.label}-{hashlib.sha256(json.dumps(depends_on, sort_keys=True).encode()).hexdigest()[:12]}"
