"""Export adapters as LoRA: plain PEFT loads them, and they answer like the adapter as far as their rank allows."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import Result
from refusals import refused
from safetensors.torch import load_file

# Method -> rank of its update, or None if the update has a full rank.
RANKS = {"{name: lora, r: 4}": 4, "{name: rslora, label: rslora, r: 3}": 3, "{name: loha, r: 4}": 16, "oft": None}


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(torch.arange(5, 45)[None]).logits[0]
    return found


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, tiny_data: Path) -> Path:
    """Return the output folder of a run with methods whose updates have a low and a full rank, and two without."""
    from click.testing import CliRunner
    from tiny import RECIPE

    from adapterzoo.cli import main

    folder = tmp_path_factory.mktemp("exported")
    methods = ", ".join([*RANKS, "ia3", "qlora", "ln-tuning", "prompt-tuning"])
    (folder / "recipe.yaml").write_text(RECIPE.format(model=tiny_model, data=tiny_data, methods=methods))
    sets = ("--set", "train.learning_rate=1e-2", "--set", "train.steps=12")
    done = CliRunner().invoke(main, ["run", str(folder / "recipe.yaml"), *sets, "--out", str(folder / "out")])
    assert done.exit_code == 0, done.output
    return folder / "out"


@pytest.mark.parametrize(("label", "rank"), [("lora", 4), ("rslora", 3), ("loha", 16)])
def test_an_update_of_low_rank_is_exported_whole(
    label: str, rank: int, out: Path, adapterzoo: Callable[..., Result], tiny_model: Path, tmp_path: Path
) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from adapterzoo.adapters.finding import find_adapter
    from adapterzoo.adapters.loading import apply_adapter

    to = tmp_path / "lora"
    done = adapterzoo("export", out, "-m", label, "--as", "lora", "--to", to)
    assert done.exit_code == 0, done.output
    assert f"rank {rank}, which holds the whole update" in " ".join(done.stderr.split())
    line = next(line for line in done.stdout.splitlines() if " match " in line)
    assert line.split()[2] == line.split()[3]
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    wanted = logits(apply_adapter(find_adapter(out, label), plain, "none"))
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    exported = PeftModel.from_pretrained(plain, to).eval()
    assert torch.allclose(logits(exported), wanted, atol=2e-4)
    assert AutoTokenizer.from_pretrained(to).chat_template
    assert json.loads((to / "adapter_config.json").read_text())["r"] == rank


def test_an_update_of_full_rank_is_cut_and_the_loss_is_measured(
    out: Path, adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    done = adapterzoo("export", out, "-m", "oft", "--as", "lora", "--to", tmp_path / "a", "--rank", 2)
    assert done.exit_code == 0, done.output
    assert "rank 2, which holds at least" in " ".join(done.stderr.split())
    line = next(line for line in done.stdout.splitlines() if " loss " in line)
    assert line.split()[2] != line.split()[3], "what two ranks do not hold changes the loss"
    kept = []
    for share in ("0.5", "0.9"):
        to = tmp_path / share
        done = adapterzoo("export", out, "-m", "oft", "--as", "lora", "--to", to, "--keep", share, "--no-measure")
        assert done.exit_code == 0, done.output
        assert done.stdout == ""
        kept.append(json.loads((to / "adapter_config.json").read_text())["r"])
    assert kept[0] < kept[1] < 64
    weights = load_file(tmp_path / "0.9" / "adapter_model.safetensors")
    assert all(weight.shape[0 if "lora_A" in name else 1] == kept[1] for name, weight in weights.items())


def test_other_methods(out: Path, adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    for label in ("ia3", "qlora"):
        done = adapterzoo("export", out, "-m", label, "--as", "lora", "--to", tmp_path / label)
        assert done.exit_code == 0, done.output
    to = ("--as", "lora", "--to", tmp_path / "x")
    refused(adapterzoo("export", out, "-m", "prompt-tuning", *to), "has nothing to merge into a model")
    refused(adapterzoo("export", out, "-m", "ln-tuning", *to), "LoRA changes linear layers only", "Merge it instead.")
    refused(adapterzoo("export", out, "-m", "lora", *to, "--rank", 2, "--keep", 0.5), "contradicts --keep")
    refused(adapterzoo("export", out, "-m", "lora", "--as", "lora", "--to", tmp_path / "ia3"), "already exists")
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("rank", [16, 300])
def test_a_large_layer_is_decomposed_as_any_other(rank: int) -> None:
    from adapterzoo.adapters.updates import Update

    torch.manual_seed(0)
    weight = torch.randn(400, 320)
    delta = weight + torch.randn(400, rank) @ torch.randn(rank, 320) / 100 - weight  # with the rounding of a merge
    update, values = Update.of(delta), torch.linalg.svdvals(delta)
    assert len(update.left.T) == len(update.right) == rank
    assert torch.allclose(update.values[:rank], values[:rank], rtol=1e-4)
    assert torch.allclose(update.left * update.values[:rank] @ update.right, delta, atol=1e-5)
