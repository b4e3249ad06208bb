"""The kit finds every built-in task sound, and a broken one not."""

from __future__ import annotations

from typing import Any

import pytest

from adapterzoo.conformance import check_task

WORDS = ("table", "river", "stone", "cloud", "paper", "train", "glass", "horse", "music", "bread")
TEXTS = [f"{('good', 'bad')[n % 2]} {WORDS[n // 2 % 10]} {n}" for n in range(40)]
LABELS = [("positive", "negative")[n % 2] for n in range(40)]
ROWS: dict[str, list[dict[str, Any]]] = {
    "supervised": [{"question": text, "answer": label} for text, label in zip(TEXTS, LABELS, strict=True)],
    "classification": [{"text": text, "label": label} for text, label in zip(TEXTS, LABELS, strict=True)],
}


@pytest.mark.parametrize("name", ROWS)
def test_a_built_in_task_is_sound(name: str) -> None:
    check_task(name, ROWS[name], "lora")
