"""The conformance kit: whether a method is sound, on tiny models, in seconds.

In the tests of a plugin::

    import pytest
    from adapterzoo.conformance import Case, cases

    @pytest.mark.parametrize("case", cases("my-method"), ids=str)
    def test_my_method_is_sound(case: Case) -> None:
        case.check()
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapterzoo.conformance.models import ARCHITECTURES
from adapterzoo.conformance.observe import observe
from adapterzoo.conformance.properties import NOT_ASKED, PROPERTIES, judge
from adapterzoo.methods.contract import Method

__all__ = ["ARCHITECTURES", "PROPERTIES", "Case", "Report", "cases"]


@dataclass(frozen=True)
class Report:
    """What became of one case."""

    method: str
    architecture: str
    quantization: str
    declined: str | None = None
    """why the method itself says that it cannot work on this architecture"""
    verdicts: dict[str, str | None] = field(default_factory=dict)
    """property -> what is wrong, None where it holds, ``-`` where it does not apply"""
    look: str = ""
    """the file of the method"""

    @property
    def failures(self) -> dict[str, str]:
        """Property -> what is wrong, with the numbers."""
        return {name: found for name, found in self.verdicts.items() if found not in (None, NOT_ASKED)}

    def __str__(self) -> str:
        where = f"{self.method} on {self.architecture}, {self.quantization}"
        if self.declined:
            return f"{where}: declined: {self.declined}"
        lines = [f"  {name}: {found}" for name, found in self.failures.items()]
        return "\n".join([f"{where}: {'not sound; see ' + self.look if lines else 'sound'}", *lines])


@dataclass(frozen=True)
class Case:
    """One method on one tiny model with one base."""

    method: Method[Any]
    architecture: str
    quantization: str

    def __str__(self) -> str:
        return f"{self.method.name}-{self.architecture}-{self.quantization}"

    def run(self) -> Report:
        """Train it, and judge what is seen."""
        seen = observe(self.method, self.architecture, self.quantization)
        declined = " ".join(map(str, seen.declined)) or None
        verdicts = {} if declined else judge(self.method, seen)
        look = inspect.getsourcefile(type(self.method)) or "?"
        return Report(self.method.name, self.architecture, self.quantization, declined, verdicts, look)

    def check(self) -> Report:
        """Run it.

        Raises:
            AssertionError: a property does not hold; says which, with the numbers and where to look.
        """
        report = self.run()
        assert not report.failures, str(report)
        return report


def cases(method: str | Method[Any], quantizations: Sequence[str] | None = None) -> list[Case]:
    """All cases of a method: each tiny model with each base that the method claims to train on.

    Raises:
        PluginError: no installed method has that name.
    """
    if isinstance(method, str):
        from adapterzoo.methods.registry import registry

        method = registry().require(method)
    return [Case(method, model, name) for model in ARCHITECTURES for name in quantizations or method.quantizations]
