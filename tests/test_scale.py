"""Check docs/scale.md: its tables are what the plan says, and the plan is what is counted."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

PAGE = Path("docs/scale.md")
PLAN = re.compile(r"<!-- python bench/scale.py plan -->\n(.*?)<!-- end -->", re.DOTALL)


@pytest.fixture(scope="module")
def plan() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path("bench").resolve()))
        import scale_plan

        yield scale_plan


def test_the_page_has_the_tables_of_the_plan(plan: Any) -> None:
    """If this fails, put into the page what ``python bench/scale.py plan`` prints."""
    found = PLAN.search(PAGE.read_text(encoding="utf-8"))
    assert found
    assert found.group(1).strip() == "\n".join(plan.tables()).strip()


@pytest.mark.parametrize("method", ["lora", "ia3"])
def test_the_counts_of_the_plan_are_those_of_the_code(plan: Any, method: str) -> None:
    """If this fails, the code or its packages count otherwise now: ``python bench/scale.py count`` counts again."""
    kept, counted = plan.needs(plan.SMALL, method), plan.counted(plan.SMALL, method)
    assert counted.trained == kept.trained
    assert counted.weights.bytes == pytest.approx(kept.weights.bytes, rel=1e-6)
    assert counted.training_bytes == pytest.approx(kept.training_bytes, rel=0.05)
    assert counted.step.operations == pytest.approx(kept.step.operations, rel=0.01)


def test_the_models_have_their_sizes(plan: Any) -> None:
    assert plan._parameters(plan.SMALL) == pytest.approx(70.6e9, rel=0.01)
    assert plan._parameters(plan.LARGE) == pytest.approx(405.9e9, rel=0.01)
