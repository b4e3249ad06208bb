"""Train on models that come quantized by GPTQ and AWQ, whose codes are written here by hand. Needs gptqmodel."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from safetensors.torch import load_file, save_file

pytest.importorskip("gptqmodel")
pytest.importorskip("optimum")

GROUP, MIDDLE = 32, 8
IN_A_WORD = torch.arange(8)
AWQ_ORDER = torch.tensor([0, 4, 1, 5, 2, 6, 3, 7])
"""place in its word of each of eight neighbouring codes"""
CONFIGS = {
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": GROUP, "desc_act": False, "sym": True,
             "checkpoint_format": "gptq"},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": GROUP, "zero_point": True, "version": "gemm"},
}  # fmt: skip


def words(codes: torch.Tensor, places: torch.Tensor = IN_A_WORD) -> torch.Tensor:
    """Put eight neighbouring codes of the last dimension into a word of 32 bits, each in its place."""
    eights = codes.unflatten(-1, (-1, 8)).to(torch.int64)
    return (eights << (4 * places)).sum(-1).to(torch.int32)


def packed(name: str, codes: torch.Tensor, scales: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the tensors of a layer with these codes, of shape (inputs, outputs), all with the same zero point."""
    if name == "gptq":  # its first form stores zero points less one
        codes_in_words, zeros = words(codes.T).T, words(torch.full(scales.shape, MIDDLE - 1))
        groups = (torch.arange(len(codes)) // GROUP).to(torch.int32)
        return {"qweight": codes_in_words.contiguous(), "qzeros": zeros, "scales": scales, "g_idx": groups}
    zeros = words(torch.full(scales.shape, MIDDLE), AWQ_ORDER)
    return {"qweight": words(codes, AWQ_ORDER), "qzeros": zeros, "scales": scales}


@pytest.fixture(params=["gptq", "awq"])
def models(request: pytest.FixtureRequest, tiny_model: Path, tmp_path: Path) -> tuple[str, Path, Path]:
    """Return the name of a quantization, and two folders of a tiny model: with its codes, and with their values."""
    torch.manual_seed(0)
    folders = tmp_path / "codes", tmp_path / "plain"
    quantized, plain = dict[str, torch.Tensor](), load_file(tiny_model / "model.safetensors")
    for name, weight in list(plain.items()):
        if not name.endswith("proj.weight"):
            quantized[name] = weight
            continue
        outputs, inputs = weight.shape
        codes, scales = torch.randint(0, 16, (inputs, outputs)), torch.rand(inputs // GROUP, outputs).half() / 50
        values = (codes - MIDDLE) * scales.float().repeat_interleave(GROUP, 0)
        plain[name] = values.T.contiguous().to(weight.dtype)
        for part, tensor in packed(request.param, codes, scales).items():
            quantized[f"{name.removesuffix('weight')}{part}"] = tensor
    for folder, tensors in zip(folders, (quantized, plain), strict=True):
        shutil.copytree(tiny_model, folder)
        save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    text = json.loads((folders[0] / "config.json").read_text(encoding="utf-8"))
    (folders[0] / "config.json").write_text(json.dumps({**text, "quantization_config": CONFIGS[request.param]}))
    return (request.param, *folders)


def test_adapters_train_on_the_codes_as_on_their_values(
    models: tuple[str, Path, Path], write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    """OFT begins without random numbers, whose order depends on the order of the layers, which gptqmodel changes."""
    name, *folders = models
    rows: list[dict[str, Any]] = []
    for folder in folders:
        settings = ("--set", f"model.name={folder}", "--set", "train.learning_rate=1e-2")
        done = adapterzoo(
            "run", write_recipe("lora, oft, bottleneck"), *settings, "--out", tmp_path / "o" / folder.name
        )
        assert done.exit_code == 0, done.output
        results = [tmp_path / "o" / folder.name / label / "seed-0/result.json" for label in ("base", "oft", "lora")]
        rows.append({path.parts[-3]: json.loads(path.read_text()) for path in results})
    on_codes, on_values = rows
    assert {row["quantization"] for row in on_codes.values()} == {name}
    for label in ("base", "oft"):
        loss = on_values[label]["metrics"]["test_loss"]
        assert on_codes[label]["metrics"]["test_loss"] == pytest.approx(loss, rel=2e-3)
    assert on_codes["lora"]["metrics"]["test_loss"] < 0.9 * on_codes["base"]["metrics"]["test_loss"]
    merged = adapterzoo("merge", tmp_path / "o" / "codes", "-m", "lora", "--to", tmp_path / "merged")
    assert merged.exit_code == 0, merged.output
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
