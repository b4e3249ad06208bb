import pytest
from adapterzoo.conformance import cases


@pytest.mark.parametrize("case", cases("$name"), ids=str)
def test_it_is_sound(case):
    """Two tiny models, each base that it claims, and all that is asked of a method."""
    case.check()
