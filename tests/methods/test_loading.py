"""A method gets the options and the facts of the training when it loads a saved adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch import nn

from adapterzoo import Context, Method, Options, PluginError
from adapterzoo.methods.calls import load_adapter

CONTEXT = Context(quantization="none", total_steps=8, gradient_accumulation=1, seed=7)


class Current(Method[Options]):
    name = "current"

    def load(self, model: nn.Module, folder: Path, options: Options, context: Context) -> nn.Module:
        model.given = (options, context.seed)
        return model


class OfContract3(Method[Options]):
    name = "of-contract-3"

    def load(self, model: Any, folder: Path) -> Any:  # type: ignore[override]
        model.given = None
        return model


class Forgetful(Method[Options]):
    name = "forgetful"

    def load(self, model: Any, folder: Path, options: Options, context: Context) -> Any:
        model.given = None


def test_load_gets_the_options_and_facts_of_the_training(tmp_path: Path) -> None:
    options = Options()
    loaded: Any = load_adapter(Current(), nn.Linear(2, 2), tmp_path, options, CONTEXT)
    assert loaded.given == (options, 7)


def test_a_load_that_takes_no_options_still_works(tmp_path: Path) -> None:
    loaded: Any = load_adapter(OfContract3(), nn.Linear(2, 2), tmp_path, Options(), CONTEXT)
    assert loaded.given is None


def test_a_load_that_returns_nothing_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"load\(\) of forgetful returned None, not a model"):
        load_adapter(Forgetful(), nn.Linear(2, 2), tmp_path, Options(), CONTEXT)
