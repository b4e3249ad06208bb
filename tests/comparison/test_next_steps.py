"""The advice for the next run: what it says would settle a tie does settle it, and the cheapest row is the cheapest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from written import write

from adapterzoo.comparison import compare
from adapterzoo.comparison.next_steps import next_steps
from adapterzoo.comparison.statistics import differences
from adapterzoo.report import notes
from adapterzoo.report.table import plain

LABELS = ("a", "b", "c", "d")
TRIALS = 120


def losses(generator: np.random.Generator, seeds: int, examples: int, behind: float) -> dict[str, NDArray[np.float64]]:
    """Return label -> losses of shape (seeds, examples); the row b is behind, and the others are alike."""
    difficulty = generator.normal(3, 0.5, examples)
    found = {}
    for label in LABELS:
        own = generator.normal(0, 0.3, examples)
        of_seed = generator.normal(0, 0.01, (seeds, 1))
        noise = generator.normal(0, 0.2, (seeds, examples))
        found[label] = difficulty + own + of_seed + noise + (behind if label != "a" else 0.0)
    return found


def table(folder: Path, rows: dict[str, NDArray[np.float64]]) -> None:
    for label, of_label in rows.items():
        for seed, values in enumerate(of_label):
            wrong = [False] * len(values)
            result = {"trainable_params": {"a": 300, "b": 100}.get(label, 200), "train_seconds": 60.0}
            metrics = {"test_loss": float(values.sum() / (2 * len(values)))}
            write(
                folder, label, wrong, seed=seed, losses=list(values), metrics=metrics, lower_is_better=["test_loss"],
                **result,
            )  # fmt: skip


@pytest.mark.parametrize("seeds", [1, 3])
def test_as_many_examples_as_it_says_settle_the_tie(seeds: int, tmp_path: Path) -> None:
    generator, behind = np.random.default_rng(5), 0.06
    advice = []
    for number in range(12):
        folder = tmp_path / str(number)
        table(folder, losses(generator, seeds, 60, behind))
        (block,) = compare(folder).blocks
        steps = next_steps(block)
        if steps is None or steps.best != "a":
            continue
        # The number of examples falls with the square of the difference, so convert it to the true difference.
        advice += [tie.examples * (tie.difference * 2 / behind) ** 2 for tie in steps.ties if tie.examples]
    examples = int(np.median(advice))
    assert 100 < examples < 3000
    settled = 0
    for _ in range(TRIALS):
        rows = losses(generator, seeds, examples, behind)
        by_seed = {label: dict(enumerate(values / 2)) for label, values in rows.items()}
        difference = differences({label: dict(of_label) for label, of_label in by_seed.items()})["b", "a"]
        assert difference.p is not None
        settled += difference.value > 0 and difference.p * 6 < 0.05
    assert 0.6 < settled / TRIALS < 0.97, "it says: in four of five runs"


def test_the_paragraph_names_the_cheapest_and_what_is_missing(tmp_path: Path) -> None:
    table(tmp_path, losses(np.random.default_rng(0), 3, 40, 0.02))
    compared = compare(tmp_path)
    (text,) = notes.next_steps(compared)
    assert "b has the fewest parameters (100)" in text
    assert "the shortest training" not in text, "all took as long"
    assert "3 seeds and 40 test examples are too few" in text
    assert "test examples" in text.partition("it probably takes")[2]
    assert text in " ".join(plain(compared).split())
    assert list(notes.next_steps(compare(tmp_path, against="b"))) == []


def test_no_parameters_are_the_fewest(tmp_path: Path) -> None:
    for label, trained in (("head", 0), ("lora", 300)):
        write(tmp_path, label, [index < 30 for index in range(40)], trainable_params=trained)
    (text,) = notes.next_steps(compare(tmp_path))
    assert "head has the fewest parameters (0)" in text


def test_without_ties_and_with_one_seed(tmp_path: Path) -> None:
    far = losses(np.random.default_rng(0), 1, 300, 5.0)
    table(tmp_path / "far", {label: far[label] for label in ("a", "b")})
    assert list(notes.next_steps(compare(tmp_path / "far"))) == []
    table(tmp_path / "near", losses(np.random.default_rng(1), 1, 40, 0.02))
    (text,) = notes.next_steps(compare(tmp_path / "near"))
    assert "add --seed 1 --seed 2 first" in text
    same = losses(np.random.default_rng(1), 1, 40, 0.0)
    table(tmp_path / "same", {"a": same["a"], "b": same["a"]})
    (text,) = notes.next_steps(compare(tmp_path / "same"))
    assert "No number of seeds or test examples in reach would settle" in text
