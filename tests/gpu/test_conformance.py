"""Check on a GPU that the seven methods of the quickstart have every property of the conformance kit."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from click.testing import Result
from tiny import METHODS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("method", METHODS)
def test_the_seven_methods_are_sound(method: str, adapterzoo: Callable[..., Result]) -> None:
    done = adapterzoo("plugin", "check", method)
    assert done.exit_code == 0, done.output
