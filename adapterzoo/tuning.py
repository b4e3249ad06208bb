"""Equal tuning: every method is tried with the same number of settings, and chosen by the validation rows alone.

All methods get the same points of the same ranges, spread evenly (Halton's sequence), after their own default where
that lies within: none profits from a luckier draw. Optuna keeps the trials, one written as it ends.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from adapterzoo.errors import AdapterzooError
from adapterzoo.plan import Cell
from adapterzoo.recipe.tune import Range
from adapterzoo.results import Trial, Tuning

JOURNAL = "tuning.journal"
LEARNING_RATE = "learning_rate"


@dataclass(frozen=True)
class Score:
    """What a setting came to on the validation rows."""

    metric: str
    value: float
    loss: float
    """decides between settings of the same value"""


Try = Callable[[Cell, int], Score]
"""trains a cell with other settings and measures it on the validation rows; given the number of the trial"""


def chosen(cell: Cell, settings: Mapping[str, Any]) -> Cell:
    """The cell with other settings."""
    options = {name: value for name, value in settings.items() if name != LEARNING_RATE}
    rate = settings.get(LEARNING_RATE, cell.learning_rate)
    return replace(cell, options={**cell.options, **options}, learning_rate=rate)


def space(cell: Cell) -> dict[str, Any]:
    """What is tried, as plain data."""
    return {
        "trials": cell.trials,
        "ranges": {name: one.model_dump(exclude_none=True, exclude={"trials"}) for name, one in cell.ranges.items()},
    }


def points(cell: Cell) -> list[dict[str, Any]]:
    """The settings to try, the cell's own first where the ranges hold them."""
    from scipy.stats import qmc

    own = {name: cell.learning_rate if name == LEARNING_RATE else cell.options.get(name) for name in cell.ranges}
    found = [own] if all(one.holds(own[name]) for name, one in cell.ranges.items()) else []
    sequence = qmc.Halton(len(cell.ranges), rng=0)
    for _ in range(20 * cell.trials):  # ranges may hold fewer different settings
        if len(found) >= cell.trials:
            break
        shares = sequence.random(1)[0]
        point = {name: one.at(float(share)) for (name, one), share in zip(cell.ranges.items(), shares, strict=True)}
        if point not in found:
            found.append(point)
    return found


def tune(cell: Cell, folder: Path, lower_is_better: bool, attempt: Try) -> Tuning:
    """Try every point that was not tried yet.

    Args:
        cell: with its ranges.
        folder: of the label; the trials are kept there.
        lower_is_better: of the metric that decides.
        attempt: trains and measures one setting; what it raises is that trial's failure.

    Raises:
        AdapterzooError: all trials failed.
    """
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    try:
        storage = JournalStorage(JournalFileBackend(str(folder / JOURNAL)))
        study = optuna.create_study(storage=storage, study_name=_name(cell), load_if_exists=True)
    except (OSError, ValueError, KeyError, TypeError):
        what = f"{folder / JOURNAL} is damaged. Remove it: its trials are made again"
        raise AdapterzooError(what) from None
    queued = [trial.system_attrs.get("fixed_params") for trial in study.get_trials(deepcopy=False)]
    for settings in points(cell):
        if settings not in queued:  # killed between two of them, the rest are still to come
            study.enqueue_trial(settings)
    for trial in study.get_trials(states=[TrialState.RUNNING]):  # when the run was killed
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.system_attrs["fixed_params"])
    while study.get_trials(deepcopy=False, states=[TrialState.WAITING]):
        _run(study, cell, attempt)
    done = [trial for trial in study.get_trials(deepcopy=False) if "settings" in trial.user_attrs]
    trials = [cast(Trial, dict(trial.user_attrs)) for trial in done]
    scored = [trial for trial in trials if trial["score"] is not None]
    if not scored:
        raise AdapterzooError(f"all {len(trials)} trials failed, the last one: {trials[-1]['error']}")
    sign = 1 if lower_is_better else -1
    best = min(scored, key=lambda trial: (sign * (trial["score"] or 0.0), trial["loss"] or 0.0))
    return Tuning(metric=best["metric"] or "", trials=trials, chosen=best["settings"], space=space(cell))


def _run(study: Any, cell: Cell, attempt: Try) -> None:
    from optuna.trial import TrialState

    trial = study.ask()
    settings = {name: _suggest(trial, name, one) for name, one in cell.ranges.items()}
    begun = time.perf_counter()
    try:
        score = attempt(chosen(cell, settings), trial.number)
        told = {"metric": score.metric, "score": score.value, "loss": score.loss, "error": None}
    except (Exception, SystemExit) as error:  # whatever a method does wrong with a setting is that trial's failure
        reason = " ".join(str(error).split())[:300]
        told = {"metric": None, "score": None, "loss": None, "error": f"{type(error).__name__}: {reason}"}
    for name, value in {**told, "settings": settings, "seconds": time.perf_counter() - begun}.items():
        trial.set_user_attr(name, value)
    state = TrialState.FAIL if told["score"] is None else TrialState.COMPLETE
    with suppress(ValueError):
        study.tell(trial, told["score"], state=state)


def _suggest(trial: Any, name: str, one: Range) -> Any:
    """The value that was queued, with the range that Optuna's own tools show."""
    if one.values is not None:
        return trial.suggest_categorical(name, one.values)
    if isinstance(one.low, int) and isinstance(one.high, int):
        return trial.suggest_int(name, one.low, one.high)
    low, high = float(one.low or 0), float(one.high or 0)
    return trial.suggest_float(name, low, high, log=low > 0 and high / low >= 10)


def _name(cell: Cell) -> str:
    """Of the study: another one where anything that its trials hang on is another."""
    fixed = {name: value for name, value in cell.options.items() if name not in cell.ranges}
    described = [cell.method, cell.base, fixed, cell.learning_rate, cell.seed, space(cell), points(cell)]
    return f"{cell.label}-{hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()[:12]}"
