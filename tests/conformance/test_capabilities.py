"""Try what methods can do, and compare it with the record."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from torch import nn

from adapterzoo import LayerMethod, LinearOptions
from adapterzoo.conformance.capabilities import try_method
from adapterzoo.conformance.compiling import compile_problem
from adapterzoo.conformance.models import rows, tiny_base
from adapterzoo.methods.capabilities import FILE, UNDECLARED
from adapterzoo.methods.contract import Context


class Factor(nn.Module):
    """A layer that scales the outputs of a linear layer, and that torch.compile cannot capture as a whole."""

    def __init__(self, linear: nn.Module) -> None:
        super().__init__()
        self.base = linear
        self.factor = nn.Parameter(torch.ones(linear.out_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(self.factor.detach().sum()) < -1e9:
            raise AssertionError
        return (self.base(x).float() * self.factor).to(x.dtype)

    def update(self) -> torch.Tensor:
        return self.base.weight * (self.factor[:, None] - 1)


class Scales(LayerMethod[LinearOptions]):
    name, summary, paper = "scales", "scales outputs", "-"
    options = LinearOptions
    learning_rate, learning_rate_source = 1e-2, "-"
    task_types = ("CAUSAL_LM",)
    quantizations = ("none",)
    mergeable_into = ()

    def layer(self, linear: nn.Module, options: LinearOptions) -> nn.Module:
        return Factor(linear)


@pytest.fixture(scope="module")
def record() -> dict[str, bool | str]:
    return try_method(Scales())


def test_what_is_not_declared_is_tried_and_the_reason_kept(record: dict[str, bool | str]) -> None:
    assert record["none"] is True
    assert record["CAUSAL_LM"] is True
    assert {record["merges"], record["nf4"], record["SEQ_CLS"]} == {UNDECLARED}, "it would work"
    assert record["export"] is True
    assert "rank 128" in str(record["export-whole"])
    assert "cannot use the adapter" in str(record["peft"])
    assert all(value is True or value for value in record.values())


def test_a_break_in_the_graph_is_told_from_one_that_compiles(record: dict[str, bool | str]) -> None:
    assert record["compile"] is True
    assert "data-dependent" in str(record["compile-whole"]).lower()


def test_a_compiled_model_that_computes_something_else_is_noticed() -> None:
    method, context = Scales(), Context(quantization="none", total_steps=1, gradient_accumulation=1, seed=0)

    def forward(self: Factor, x: torch.Tensor) -> torch.Tensor:
        scale = 1.0 if torch.compiler.is_compiling() else 1.5
        return self.base(x) * self.factor * scale

    with pytest.MonkeyPatch.context() as patch, tiny_base("llama", "none").borrow() as model:
        patch.setattr(Factor, "forward", forward)
        wrapped = method.wrap(model, LinearOptions(), context)
        assert "differ by a share" in str(compile_problem(wrapped, rows(), whole=True))


def test_the_record_is_what_is_seen_today(adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    """The others are tried by ``adapterzoo plugin capabilities --all``; without DeepSpeed, what needs it is not."""
    kept: dict[str, Any] = json.loads(Path("plugins", FILE).read_text(encoding="utf-8"))["methods"]
    done = adapterzoo("plugin", "capabilities", "ia3", "--to", tmp_path / FILE, "--jobs", "1")
    assert done.exit_code == 0, done.stderr
    seen = json.loads((tmp_path / FILE).read_text(encoding="utf-8"))["methods"]
    assert list(seen) == ["ia3"]
    assert {column: value is True for column, value in seen["ia3"].items()} == {
        column: value is True for column, value in kept["ia3"].items() if find_spec("deepspeed") or "zero" not in column
    }
