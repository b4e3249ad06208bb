"""A size that does not fit a layer is an error or is reported with the results; it is never changed silently."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import Bench
from click.testing import Result

from adapterzoo import Context
from adapterzoo.errors import UserError


def test_a_block_size_that_peft_adjusts_silently_is_reported(write_recipe: Callable[..., Path]) -> None:
    from adapterzoo.methods.registry import registry

    method = registry()["oft"]
    bench = Bench(write_recipe("oft"))
    options = method.options(oft_block_size=24)  # 24 divides neither 64 nor 128
    with bench.load("none").borrow() as model:
        findings = method.findings(method.wrap(model, options, bench.method("oft")[2]))
    assert findings["adjusted"] == {"oft_block_size": "24 -> 16 in 14 layers"}


def test_a_factor_of_lokr_that_stays_whole_is_reported(write_recipe: Callable[..., Path]) -> None:
    from adapterzoo.methods.registry import registry

    method = registry()["lokr"]
    bench = Bench(write_recipe("lokr"))
    with bench.load("none").borrow() as model:
        wrapped = method.wrap(model, method.options(r=2, decompose_both=True), bench.method("lokr")[2])
        findings = method.findings(wrapped)
    assert findings["adjusted"] == {"decompose_both": "True -> False in 14 of 14 layers, where r is too large for it"}


def test_butterfly_factors_that_peft_would_ignore_are_an_error(
    write_recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peft.tuners.boft.layer.get_fbd_cuda", lambda: None)
    with pytest.raises(UserError, match="needs PEFT's CUDA extension"):
        Bench(write_recipe("{name: boft, boft_n_butterfly_factor: 2}"))


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ("{name: oft, oft_block_size: 24}", "24 does not divide 64"),
        ("{name: boft, boft_block_size: 24}", "boft_block_size"),
        ("{name: c3a, block_size: 24}", "block size"),
        ("{name: vblora, vector_length: 24}", "vector_length"),
    ],
)
def test_a_size_that_does_not_fit_is_an_error_before_weights_are_loaded(
    method: str, message: str, write_recipe: Callable[..., Path]
) -> None:
    with pytest.raises(UserError, match=message):
        Bench(write_recipe(method))


@pytest.mark.parametrize(
    ("widths", "message"),
    [
        (
            (128, 64),
            "48 does not divide 128, the input size of 0 (and 1 more layer). Choose from: 2, 4, 8, 16, 32, 64.",
        ),
        ((96, 64), "48 does not divide 64, the input size of 1. Choose from: 2, 4, 8, 16, 32."),
        (
            (97, 96),
            "48 does not divide 97, the input size of 0. No size divides every layer: choose fewer target_modules.",
        ),
    ],
)
def test_the_sizes_to_choose_from_divide_every_layer(widths: tuple[int, ...], message: str) -> None:
    from torch import nn

    from adapterzoo.methods.registry import registry

    method = registry()["oft"]
    model = nn.Sequential(*(nn.Linear(width, 8) for width in widths))
    (problem,) = method.problems(model, method.options(oft_block_size=48), Context("none", 6, 1, 0))
    assert message in str(problem)


def test_adjusted_sizes_are_shown_below_the_table(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("{name: lokr, decompose_factor: 5}", steps="1")
    done = adapterzoo("run", recipe, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.stderr
    assert "lokr, r: 32 -> full rank in 14 of 14 layers" in done.stdout
    assert "lokr, decompose_factor: 5 -> another value in 14 of 14 layers" in done.stdout
    rows = json.loads(adapterzoo("compare", tmp_path / "out", "--format", "json").stdout)["rows"]
    assert [sorted(row["adjusted"]) for row in rows if row["method"]] == [["decompose_factor", "r"]]
    assert "full rank" in adapterzoo("compare", tmp_path / "out", "--format", "markdown").stdout
