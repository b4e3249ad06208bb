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
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from adapterzoo.conformance.models import ARCHITECTURES
from adapterzoo.conformance.observe import observe
from adapterzoo.conformance.properties import NOT_CHECKED, PROPERTIES, check_properties
from adapterzoo.methods.contract import Method

__all__ = ["ARCHITECTURES", "PROPERTIES", "Case", "Report", "cases"]


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

    @property
    def failures(self) -> dict[str, str]:
        """Return the properties that do not hold: property -> what is wrong, with numbers."""
        return {name: verdict for name, verdict in self.verdicts.items() if verdict not in (None, NOT_CHECKED)}

    def __str__(self) -> str:
        where = f"{self.method} on {self.architecture}, {self.quantization}"
        if self.declined:
            return f"{where}: declined: {self.declined}"
        lines = [f"  {name}: {failure}" for name, failure in self.failures.items()]
        return "\n".join([f"{where}: {'not sound; see ' + self.look if lines else 'sound'}", *lines])


@dataclass(frozen=True)
class Case:
    """One method on one tiny model with one quantization."""

    method: Method[Any]
    architecture: str
    quantization: str

    def __str__(self) -> str:
        return f"{self.method.name}-{self.architecture}-{self.quantization}"

    def run(self) -> Report:
        """Train the method, and check every property of what was observed."""
        observed = observe(self.method, self.architecture, self.quantization)
        declined = " ".join(map(str, observed.declined)) or None
        verdicts = {} if declined else check_properties(self.method, observed)
        look = inspect.getsourcefile(type(self.method)) or "?"
        return Report(self.method.name, self.architecture, self.quantization, declined, verdicts, look)

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
    if isinstance(method, str):
        from adapterzoo.methods.registry import registry

        method = registry().require(method)
    return [Case(method, model, name) for model in ARCHITECTURES for name in quantizations or method.quantizations]
