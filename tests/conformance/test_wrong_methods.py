"""Methods that are wrong by a line or two are found: one of each kind; bench/wrong_methods.py tries them all."""

from __future__ import annotations

import pytest
from wrong import KINDS

from adapterzoo.conformance import cases


@pytest.mark.parametrize(
    ("kind", "name"),
    [("another_process", "wrong-date-seed"), ("merging", "wrong-output-hook"), ("playing_more", "wrong-stops-early")],
)
def test_a_wrong_method_of_each_kind_is_found(kind: str, name: str) -> None:
    (wrong,) = (wrong for wrong in KINDS[kind] if wrong.method.name == name)
    assert cases(wrong.method())[0].run().failures


def test_the_names_of_wrong_methods_are_different() -> None:
    names = [wrong.method.name for wrongs in KINDS.values() for wrong in wrongs]
    assert len(set(names)) == len(names) >= 80
