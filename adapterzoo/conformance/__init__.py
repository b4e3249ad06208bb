"""The conformance kit tests within seconds, on tiny models, whether a method is sound.

A method is sound if it has all properties in :mod:`adapterzoo.conformance.properties`, except those that it declares
not to have.

In the tests of a plugin::

    import pytest
    from adapterzoo.conformance import Case, cases

    @pytest.mark.parametrize("case", cases("my-method"), ids=str)
    def test_my_method_is_sound(case: Case) -> None:
        case.check()
"""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapterzoo.conformance.differences import NOT_CHECKED
from adapterzoo.conformance.models import ARCHITECTURES, CAUSAL, TASK_ARCHITECTURES
from adapterzoo.conformance.observe import observe
from adapterzoo.conformance.properties import PROPERTIES, check_properties
from adapterzoo.conformance.task_check import check_task
from adapterzoo.methods.contract import Method

WIDTH = 100  # width of the lines of a report

__all__ = ["ARCHITECTURES", "PROPERTIES", "Case", "Report", "cases", "check_task", "family_cases", "task_cases"]


@dataclass(frozen=True)
class Report:
    """The result of one case."""

    method: str
    architecture: str
    quantization: str
    declined: str | None = None
    """the method's own reason why it cannot work on this architecture"""
    verdicts: dict[str, str | None] = field(default_factory=dict)
    """property -> what is wrong; None if the property holds, ``-`` if it was not checked"""
    look: str = ""
    """path of the file with the method's code"""
    task_type: str = CAUSAL
    """PEFT's name for the type of the task"""

    @property
    def what(self) -> str:
        """Return what distinguishes the case from others of the method on this architecture."""
        return self.quantization if self.task_type == CAUSAL else self.task_type

    @property
    def failures(self) -> dict[str, str]:
        """Return the properties that do not hold: property -> what is wrong, with numbers."""
        return {name: verdict for name, verdict in self.verdicts.items() if verdict not in (None, NOT_CHECKED)}

    def __str__(self) -> str:
        where = f"{self.method} on {self.architecture}, {self.what}"
        if self.declined:
            return f"{where}: declined: {self.declined}"
        if not self.failures:
            return f"{where}: sound"
        lines = [
            textwrap.fill(f"{name}: {failure}", WIDTH, initial_indent="  ", subsequent_indent="    ")
            for name, failure in self.failures.items()
        ]
        # The first line is all that pytest's summary shows.
        return "\n".join([f"not sound: {', '.join(self.failures)} ({where})", *lines, f"  see {self.look}"])


@dataclass(frozen=True)
class Case:
    """One method on one tiny model with one quantization."""

    method: Method[Any]
    architecture: str
    quantization: str
    task_type: str = CAUSAL

    def __str__(self) -> str:
        what = self.quantization if self.task_type == CAUSAL else self.task_type
        return f"{self.method.name}-{self.architecture}-{what}"

    def run(self, *, thorough: bool = False) -> Report:
        """Train the method, and check every property of what was observed.

        Args:
            thorough: whether to train for longer too, with other settings, and on a larger model.
        """
        observed = observe(
            self.method, self.architecture, self.quantization, task_type=self.task_type, thorough=thorough
        )
        declined = " ".join(map(str, observed.declined)) or None
        verdicts = {} if declined else check_properties(self.method, observed)
        look = inspect.getsourcefile(type(self.method)) or "?"
        return Report(self.method.name, self.architecture, self.quantization, declined, verdicts, look, self.task_type)

    def check(self) -> Report:
        """Run the case, and fail if the method is not sound.

        Raises:
            AssertionError: a property does not hold; the message names it, with numbers and the file of the method.
        """
        report = self.run()
        assert not report.failures, str(report)
        return report


def cases(method: str | Method[Any], quantizations: Sequence[str] | None = None) -> list[Case]:
    """Return all cases of a method: each tiny model with each quantization on which the method says it can train.

    Args:
        method: the method, or its name.
        quantizations: the quantizations to use instead.

    Raises:
        PluginError: no installed method has that name.
    """
    method = _method(method)
    names = method.quantizations if quantizations is None else quantizations
    found = [Case(method, model, name) for model in ARCHITECTURES for name in names]
    return found if CAUSAL in method.task_types else []


def family_cases(
    method: str | Method[Any], families: Sequence[str] | None = None, quantizations: Sequence[str] = ()
) -> list[Case]:
    """Return the cases of a method on the tiny models of families.

    Args:
        method: the method, or its name.
        families: names of families; by default all that are known.
        quantizations: the quantizations to use; by default the first on which the method says it can train.

    Raises:
        PluginError: no installed method has that name.
    """
    from adapterzoo.conformance.families import FAMILIES

    method = _method(method)
    chosen = quantizations or method.quantizations[:1]
    return [Case(method, family, name) for family in families or FAMILIES for name in chosen]


def task_cases(method: str | Method[Any], task_types: Sequence[str] | None = None) -> list[Case]:
    """Return the cases of a method on tiny models of other tasks, without quantization.

    Args:
        method: the method, or its name.
        task_types: the types of tasks to use instead of those for which the method says it can train.

    Raises:
        PluginError: no installed method has that name.
    """
    method = _method(method)
    if "none" not in method.quantizations:
        return []
    return [
        Case(method, model, "none", task_type)
        for task_type in task_types or method.task_types
        for model in TASK_ARCHITECTURES.get(task_type, ())
    ]


def _method(method: str | Method[Any]) -> Method[Any]:
    from adapterzoo.methods.registry import registry

    return registry().require(method) if isinstance(method, str) else method
