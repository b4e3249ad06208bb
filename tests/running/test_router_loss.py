"""Check a mixture of experts whose configuration asks for the loss of its router."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from click.testing import Result
from mixtures import save_mixture

QUICK = ("--set", "train.steps=2", "--set", "evaluate.shots=0", "--set", "jobs=0")


def test_its_router_learns_in_training_and_is_left_alone_in_answers(
    tiny_model: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe, losses = write_recipe("lora"), []
    for wanted in (False, True):
        of_router = {"output_router_logits": wanted, "router_aux_loss_coef": 0.5}
        folder = save_mixture("mixtral", tiny_model, tmp_path / f"moe-{wanted}", **of_router)
        of_model = ("--set", f"model.name={folder}")
        done = adapterzoo("run", recipe, *QUICK, *of_model, "--out", tmp_path / f"out-{wanted}")
        assert done.exit_code == 0, done.output
        result = json.loads((tmp_path / f"out-{wanted}/lora/seed-0/result.json").read_text())
        losses.append(result["history"][0]["loss"])
    assert losses[1] > losses[0] + 0.5, "the loss of four equally likely experts, of which each row takes two, is 2"
    done = adapterzoo("check", recipe, *QUICK, *of_model, "--set", "train.devices=2", "--set", "jobs=auto")
    assert done.exit_code == 2
    assert "train.devices: is 2, and the model's configuration asks for its router's loss" in done.stderr
