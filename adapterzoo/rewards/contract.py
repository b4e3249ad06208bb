"""The reward contract: how many points a model gets for an answer.

This module does not import torch. A plugin module may import torch only inside functions. A complete reward::

    from collections.abc import Mapping

    from adapterzoo import Reward, hookimpl


    def is_short(answer: str, row: Mapping[str, str]) -> float:
        "1 for an answer of at most as many words as the row allows, else 0."
        return float(len(answer.split()) <= int(row["words"]))


    @hookimpl
    def adapterzoo_rewards():
        return [Reward("is_short", is_short)]
"""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from adapterzoo.errors import PluginError
from adapterzoo.machine.limits import TooLongError, stopped_after
from adapterzoo.metrics.contract import finite_number

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


@dataclass(frozen=True)
class Reward:
    """A reward: a number that says how good an answer is.

    Raises:
        PluginError: a field has a wrong value. The message names the reward and the field.
    """

    name: str
    """name in a recipe under ``task.rewards``: lower-case letters, digits, ``_`` and ``-``"""
    score: Callable[[str, Mapping[str, str]], float]
    """``score(answer, row)`` returns the reward of an answer, which may be empty. ``row`` has all cells of the data row
    as texts: ``prompt``, ``answer`` if there is a right answer, and all other columns by the user's names"""
    summary: str = ""
    """one line with the scale; by default the first line of ``score``'s docstring"""
    needs_answer: bool = False
    """whether rows must have a right answer"""

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not NAME.fullmatch(self.name):
            what = "it may have only lower-case letters, digits, '_' and '-'"
            raise PluginError(f"a reward's name is {self.name!r}, but {what}")
        if not callable(self.score):
            raise PluginError(f"reward '{self.name}': score is not a function of an answer and a row")
        if not isinstance(self.summary, str) or not isinstance(self.needs_answer, bool):
            raise PluginError(
                f"reward '{self.name}': its summary is not text, or its needs_answer is not True or False"
            )
        if not self.summary:
            object.__setattr__(self, "summary", (inspect.getdoc(self.score) or "").partition("\n")[0].rstrip("."))


def reward_of(reward: Reward, answer: str, row: Mapping[str, str], seconds: float) -> float:
    """Return the reward of an answer.

    Args:
        reward: the reward.
        answer: the answer.
        row: the cells of the row.
        seconds: time after which the function is stopped. It is not stopped on Windows, outside the main thread, and
            while it runs code in C.

    Raises:
        PluginError: the function raised an exception, ran for too long, or did not return a finite number.
    """
    begun = time.monotonic()
    late = PluginError(f"reward '{reward.name}' ran for more than {seconds:g} seconds on {answer!r:.100}")
    try:
        with stopped_after(seconds, waiting=True):
            returned: Any = reward.score(answer, dict(row))
    except TooLongError:
        raise late from None
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # third-party code may raise anything, even GeneratorExit
        raise PluginError(f"reward '{reward.name}' raised {type(error).__name__}: {_shown(error, str)}") from None
    if time.monotonic() - begun > seconds:  # it caught the error that was to stop it
        raise late
    value = finite_number(returned)
    if value is None:
        what = f"returned {_shown(returned, repr)}, not a finite number, for {answer!r:.100}"
        raise PluginError(f"reward '{reward.name}' {what}")
    return float(value)


def _shown(value: object, write: Callable[[object], str]) -> str:
    """Return an object of third-party code as a short text; its own code for that may raise anything."""
    try:
        return " ".join(write(value).split())[:100]
    except Exception:
        return f"an object of type {type(value).__name__}"
