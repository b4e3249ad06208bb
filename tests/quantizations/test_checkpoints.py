"""Run recipes on models that come quantized: some really are, and of others only config.json says so."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import Result
from refusals import refused

from adapterzoo.quantizations.registry import quantizations

FEW = ("--set", "train.steps=4", "--set", "train.learning_rate=1e-2")


@pytest.fixture
def saved(tiny_model: Path, tmp_path: Path) -> Callable[[dict[str, Any]], Path]:
    """Return a function that copies the tiny model, and writes a ``quantization_config`` into its config.json."""

    def write(config: dict[str, Any]) -> Path:
        folder = tmp_path / "model"
        shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
        text = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        (folder / "config.json").write_text(json.dumps({**text, "quantization_config": config}), encoding="utf-8")
        return folder

    return write


@pytest.fixture(scope="module")
def in_4_bits(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the tiny model as transformers saves it in nf4."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    folder = tmp_path_factory.mktemp("model-in-nf4")
    shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForCausalLM.from_pretrained(
        tiny_model, dtype=torch.float32, quantization_config=config, device_map={"": "cpu"}
    )
    model.save_pretrained(folder)
    return folder


@pytest.mark.usefixtures("no_weights")
@pytest.mark.parametrize(
    ("config", "settings", "words"),
    [
        ({"quant_method": "aqlm"}, (), "comes quantized by 'aqlm', which no installed quantization recognises."),
        (
            {"quant_method": "gptq", "bits": 4, "group_size": 128},
            (),
            "comes quantized (gptq), which needs optimum, gptqmodel, which is not installed. Try: pip install optimum",
        ),
        ({"quant_method": "awq", "bits": 4}, (), "comes quantized (awq), which needs gptqmodel"),
        (
            {"quant_method": "mxfp4"},
            ("--set", "model.quantization=int8"),
            "comes quantized (mxfp4), and cannot be quantized again (int8). Leave model.quantization out",
        ),
        (
            {"quant_method": "mxfp4"},
            ("-m", "qlora"),
            "qlora: qlora needs the quantization nf4, and the base model comes quantized (mxfp4).",
        ),
        (
            {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
            ("-m", "full"),
            "full: full cannot train on a base with quantization nf4. It trains on: none.",
        ),
    ],
)
def test_a_model_that_cannot_be_trained_on_is_refused_before_its_weights_are_read(
    config: dict[str, Any],
    settings: tuple[str, ...],
    words: str,
    saved: Callable[[dict[str, Any]], Path],
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    absent = ("optimum", "gptqmodel")
    monkeypatch.setattr("adapterzoo.quantizations.contract.find_spec", lambda name: None if name in absent else name)
    recipe = write_recipe("lora")
    refused(adapterzoo("check", recipe, "--set", f"model.name={saved(config)}", *settings), words)


def test_a_recipe_cannot_ask_for_what_only_a_model_can_bring(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    done = adapterzoo("check", write_recipe("lora"), "--set", "model.quantization=mxfp4")
    refused(done, "is not quantized with mxfp4, and adapterzoo cannot do that.")


@pytest.mark.parametrize("name", ["", "model-Q4_K_M.gguf"])
def test_a_gguf_file_is_refused_with_the_way_to_convert_it(
    name: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    (tmp_path / "gguf").mkdir()
    (tmp_path / "gguf" / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    done = adapterzoo("check", write_recipe("lora"), "--set", f"model.name={tmp_path / 'gguf' / name}")
    refused(
        done,
        "model-Q4_K_M.gguf: cannot be loaded: transformers has to turn a GGUF file into a folder",
        "quantizations.md",
    )


def test_a_model_saved_in_4_bits_is_trained_on_and_merged_as_if_it_was_quantized_here(
    in_4_bits: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("lora, qlora")
    saved = adapterzoo("run", recipe, *FEW, "--set", f"model.name={in_4_bits}", "--out", tmp_path / "saved")
    assert saved.exit_code == 0, saved.output
    assert "comes quantized: nf4" in saved.stderr
    here = adapterzoo("run", recipe, *FEW, "--set", "model.quantization=nf4", "--out", tmp_path / "here")
    assert here.exit_code == 0, here.output
    for label in ("base", "lora", "qlora"):
        first, second = (
            json.loads((tmp_path / folder / label / "seed-0" / "result.json").read_text())
            for folder in ("saved", "here")
        )
        assert first["quantization"] == second["quantization"] == "nf4"
        assert first["metrics"] == second["metrics"], label
    done = adapterzoo("merge", tmp_path / "saved", "-m", "lora", "--to", tmp_path / "merged", "--no-measure")
    assert done.exit_code == 0, done.output
    assert "quantization_config" not in json.loads((tmp_path / "merged" / "config.json").read_text())
    asked = adapterzoo("generate", tmp_path / "saved", "-m", "lora", "--prompt", "walk")
    assert asked.exit_code == 0, asked.output


@pytest.mark.parametrize(
    ("saved", "name"),
    [
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, "int8"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "fp4"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}}, "torchao-int8"),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "Another"}}}, None),
        ({"quant_method": "torchao", "quant_type": "int8"}, None),
        ({"quant_method": "torchao", "quant_type": {"default": {}}}, None),
        ({"quant_method": "fp8"}, "fine-grained-fp8"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors"),
        ({"quant_method": None}, None),
        ({}, None),
    ],
)
def test_the_quantization_of_a_model_is_recognised(saved: dict[str, Any], name: str | None) -> None:
    found = quantizations().of_checkpoint(saved)
    assert (found and found.name) == name


FP4 = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


@pytest.fixture(scope="module")
def gpt_oss(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return two folders of a tiny gpt-oss: its experts in MXFP4, named as in OpenAI's files, and as plain numbers.

    Two codes share a byte, the first in its low half, and 32 codes share a power of two (OCP Microscaling Formats).
    """
    from safetensors.torch import load_file, save_file
    from transformers import AutoTokenizer, GptOssConfig, GptOssForCausalLM

    codes_folder, plain_folder = (tmp_path_factory.mktemp(name) for name in ("mxfp4", "plain"))
    torch.manual_seed(0)
    config = GptOssConfig(
        vocab_size=len(AutoTokenizer.from_pretrained(tiny_model)), hidden_size=64, intermediate_size=64,
        num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16, num_local_experts=4,
        num_experts_per_tok=2, max_position_embeddings=256,
    )  # fmt: skip
    for folder in (codes_folder, plain_folder):
        shutil.copytree(tiny_model, folder, dirs_exist_ok=True)
        GptOssForCausalLM(config).save_pretrained(folder)
    plain, codes = load_file(plain_folder / "model.safetensors"), dict[str, torch.Tensor]()
    for name, tensor in plain.items():
        if not name.endswith(("gate_up_proj", "down_proj")):
            codes[name] = tensor
            continue
        experts, inputs, outputs = tensor.shape
        code = torch.randint(0, 16, (experts, outputs, inputs // 32, 32))
        power = torch.randint(-7, -3, (experts, outputs, inputs // 32))
        codes[f"{name}_blocks"] = (code[..., ::2] + 16 * code[..., 1::2]).to(torch.uint8)
        codes[f"{name}_scales"] = (power + 127).to(torch.uint8)
        numbers = (FP4[code] * 2.0 ** power[..., None]).reshape(experts, outputs, inputs)
        plain[name] = numbers.transpose(1, 2).contiguous()
    save_file(plain, plain_folder / "model.safetensors", {"format": "pt"})
    save_file(codes, codes_folder / "model.safetensors", {"format": "pt"})
    text = json.loads((codes_folder / "config.json").read_text(encoding="utf-8"))
    kept = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    text["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": kept}
    (codes_folder / "config.json").write_text(json.dumps(text), encoding="utf-8")
    return codes_folder, plain_folder


def test_a_gpt_oss_in_mxfp4_gives_the_results_of_its_plain_numbers(
    gpt_oss: tuple[Path, Path], write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    results = []
    for folder in gpt_oss:
        out = tmp_path / folder.name
        done = adapterzoo("run", write_recipe("lora"), *FEW, "--set", f"model.name={folder}", "--out", out)
        assert done.exit_code == 0, done.output
        results.append([json.loads((out / label / "seed-0/result.json").read_text()) for label in ("base", "lora")])
    codes, plain = results
    assert [row["metrics"] for row in codes] == [row["metrics"] for row in plain]
    assert codes[0]["metrics"]["test_loss"] != codes[1]["metrics"]["test_loss"]
    assert {row["quantization"] for row in codes} == {"mxfp4"}
