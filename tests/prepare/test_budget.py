"""Check budgets: the size of each method comes as near to the wanted number of parameters as it can."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from tiny import METHODS

from adapterzoo.methods.contract import Method, Options
from adapterzoo.prepare import budget
from adapterzoo.prepare.prepare import prepare
from adapterzoo.recipe.reading import load_recipe

BUDGET = "budget: {trainable_params: 20k}\n"


class SizeOptions(Options):
    size: int = 8


class SizedMethod(Method[SizeOptions]):
    name, options, size_option = "sized", SizeOptions, "size"


def solved(wanted: int, count: Callable[[int], int | None], start: int = 8) -> int:
    return int(budget.solve(SizedMethod(), SizeOptions(size=start), wanted, lambda options: count(options.size)).size)


def test_the_nearest_size_is_found_wherever_it_is() -> None:
    for wanted in (1, 99, 100, 149, 151, 12_345, 10**6):
        found = solved(wanted, lambda size: 100 * size)
        assert abs(100 * found - wanted) == min(abs(100 * size - wanted) for size in range(1, 20_000))
    assert solved(10**9, lambda size: min(size, 50)) == 50, "of equally many parameters, the smallest size"


def test_impossible_sizes_are_skipped() -> None:
    blocks = [size for size in range(2, 193) if 192 % size == 0]
    for wanted in (10, 500, 1700, 9000, 10**6):
        found = solved(wanted, lambda size: size * (size - 1) // 2 if size in blocks else None, start=32)
        wanted_size = min(blocks, key=lambda size: abs(size * (size - 1) // 2 - wanted))
        assert found == wanted_size


@pytest.mark.parametrize("width", [768, 1536, 5120])
def test_divisors_that_are_far_from_each_other_are_found(width: int) -> None:
    def count(size: int) -> int | None:
        return size * (size - 1) // 2 if width % size == 0 else None

    for size in sorted(budget.divisors([width, 2 * width]))[1:]:
        start, wanted = SizeOptions(size=32), count(size) or 0
        found = budget.solve(
            SizedMethod(), start, wanted, lambda options: count(options.size), budget.divisors([width])
        )
        assert found.size == size


def test_parameters_may_grow_with_the_square_of_the_size_or_not_at_all() -> None:
    assert solved(900, lambda size: size * size) == 30
    assert solved(5, lambda size: 7) == 8, "the size stays as it was"


def test_every_method_comes_as_near_to_the_budget_as_it_can(write_recipe: Callable[..., Path]) -> None:
    prepared = prepare(load_recipe(write_recipe(extra=BUDGET)))
    cells = {cell.label: cell for cell in prepared.method_cells}
    assert set(cells) == set(METHODS)
    sizes = {label: prepared.trainable[label] for label in METHODS}
    for label in ("lora", "qlora", "adalora", "loha"):
        assert sizes[label] == pytest.approx(20_000, rel=0.08), label
    assert cells["lora"].options["r"] == 10
    assert cells["adalora"].options["target_r"] < cells["adalora"].options["init_r"]
    assert budget.misses(sizes["ia3"], 20_000)
    # The neighbouring sizes are no nearer.
    for size in (9, 11):
        recipe = write_recipe(f"{{name: lora, r: {size}}}", name=f"{size}.yaml")
        parameters = prepare(load_recipe(recipe)).trainable["lora"]
        assert abs(parameters - 20_000) >= abs(sizes["lora"] - 20_000)


def test_check_shows_the_size_that_a_run_trains(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path, no_weights: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe = write_recipe("lora, ia3", extra=BUDGET)
    plan = adapterzoo("check", recipe).stdout
    assert re.search(r"lora .*r 10 +20.5k ", plan)
    assert re.search(r"ia3 .*384!", plan)
    assert "ia3: the nearest possible size misses the budget of 20.0k parameters" in plan
    monkeypatch.undo()
    done = adapterzoo("run", recipe, "--out", tmp_path / "out")
    assert done.exit_code == 0
    rows = json.loads(adapterzoo("compare", tmp_path / "out", "--json").stdout)["rows"]
    row: dict[str, Any] = next(row for row in rows if row["label"] == "lora")
    assert (row["trainable_params"], row["options"]["r"], row["budget"]) == (20_480, 10, 20_000)
    assert "384!" in done.stdout
    again = adapterzoo("run", recipe, "--out", tmp_path / "out", "--set", "budget.trainable_params=40k")
    assert again.exit_code == 2
    assert "holds the results of another recipe (budget.trainable_params: 20000 there, 40000 here)" in again.stderr


@pytest.mark.parametrize(
    ("methods", "extra", "message"),
    [
        ("lora", "budget: {trainable_params: big}\n", "must be a number like 2500000, 250k or 2.5M, not 'big'"),
        ("lora", "budget: {trainable_params: 0}\n", "must be a number like"),
        ("lora", "budget: {params: 5}\n", "unknown key 'budget.params'"),
        ("{name: lora, r: 8}", BUDGET, "'r' is set here and by the budget."),
    ],
)
def test_mistakes_are_reported_with_their_line(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None, methods: str, extra: str,
    message: str,
) -> None:  # fmt: skip
    refused = adapterzoo("check", write_recipe(methods, extra=extra))
    assert refused.exit_code == 2
    assert message in refused.stderr
    assert re.search(r"recipe.yaml:\d+", refused.stderr)


def test_a_budget_above_the_models_parameters_is_refused(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], no_weights: None
) -> None:
    refused = adapterzoo("check", write_recipe("lora", extra="budget: {trainable_params: 1e30}\n"))
    assert refused.exit_code == 2
    assert "budget.trainable_params: 1e+30 is more than the 90,624 parameters of the model" in refused.stderr


def test_parameters_may_shrink_as_the_size_grows() -> None:
    for wanted in (3, 40, 999, 10**5):
        found = solved(wanted, lambda size: 50_000 // size if size <= 4096 else None, start=64)
        nearest = min(range(1, 4097), key=lambda size: abs(50_000 // size - wanted))
        assert 50_000 // found == 50_000 // nearest
