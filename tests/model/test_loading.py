"""Loading models: the message says why one cannot be loaded, with a hint, before any weight is loaded."""

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
from safetensors.torch import load_file, save_file

from adapterzoo.conformance.models import tiny_base
from adapterzoo.errors import UserError
from adapterzoo.model.head import head_parameters, put_new_head
from adapterzoo.model.loading import check_weights
from adapterzoo.model.loading_errors import loading_error, weight_problems
from adapterzoo.recipe.schema import ModelSection


@pytest.fixture
def own_code(tiny_model: Path, tmp_path: Path) -> Path:
    """Return a model that comes with code for an older version of transformers."""
    folder = tmp_path / "own"
    shutil.copytree(tiny_model, folder)
    config = json.loads((folder / "config.json").read_text())
    config["model_type"] = "mine"
    config["auto_map"] = {"AutoConfig": "mine.MineConfig", "AutoModelForCausalLM": "mine.MineForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text(
        "from transformers import LlamaConfig\n"
        "class MineConfig(LlamaConfig):\n    model_type = 'mine'\n"
        "class MineForCausalLM:\n    def __init__(self, *a, **k):\n        raise AttributeError('gone in version 5')\n"
    )
    return folder


def test_a_models_own_code_is_not_run_without_consent(
    own_code: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    done = adapterzoo("check", write_recipe("lora"), "--set", f"model.name={own_code}")
    assert done.exit_code == 2
    text = " ".join(done.stderr.split())
    assert "it comes with its own code, which is not run without your permission" in text
    assert "If you trust its authors, set model.trust_remote_code: true." in text


def test_a_models_own_code_that_fails(
    own_code: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    sets = ("--set", f"model.name={own_code}", "--set", "model.trust_remote_code=true")
    done = adapterzoo("check", write_recipe("lora"), *sets)
    assert done.exit_code == 2, done.output
    text = " ".join(done.stderr.split())
    assert "cannot be loaded: " in text
    assert "Its own code may need another version of transformers." in text
    assert "Traceback" not in text


def test_a_gated_and_a_missing_model_have_different_messages() -> None:
    model = ModelSection(name="meta-llama/Llama-2-7b-hf")
    gated = str(loading_error(model, OSError("You are trying to access a gated repo.\nMake sure to have access")))
    assert "it is gated" in gated
    assert "https://huggingface.co/meta-llama/Llama-2-7b-hf" in gated
    missing = str(
        loading_error(model, OSError("meta-llama/Llama-2-7b-hf is not a local folder and is not a valid model"))
    )
    assert "gated" not in missing


def damage(folder: Path, change: Callable[[dict[str, Any], dict[str, Any]], None]) -> None:
    """Change a model's weights and its configuration."""
    weights, config = load_file(folder / "model.safetensors"), json.loads((folder / "config.json").read_text())
    change(weights, config)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config))


def drop_a_layer(weights: dict[str, Any], config: dict[str, Any]) -> None:
    for name in [name for name in weights if ".layers.1." in name]:
        del weights[name]


def rename_a_key(weights: dict[str, Any], config: dict[str, Any]) -> None:
    weights["model.layers.0.mlp.up_project.weight"] = weights.pop("model.layers.0.mlp.up_proj.weight")


def cut_a_weight(weights: dict[str, Any], config: dict[str, Any]) -> None:
    weights["model.norm.weight"] = weights["model.norm.weight"][:32].contiguous()


def one_layer_more(weights: dict[str, Any], config: dict[str, Any]) -> None:
    config["num_hidden_layers"] += 1


def one_layer_fewer(weights: dict[str, Any], config: dict[str, Any]) -> None:
    config["num_hidden_layers"] -= 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (drop_a_layer, "lacks weights of the model, which would be random numbers: model.layers.1."),
        (
            rename_a_key,
            "lacks weights of the model, which would be random numbers: model.layers.0.mlp.up_proj.weight.",
        ),
        (rename_a_key, "holds weights that the model does not have: model.layers.0.mlp.up_project.weight."),
        (cut_a_weight, "of other shapes than the model's: model.norm.weight is (32,) instead of (64,)."),
        (one_layer_more, "lacks weights of the model, which would be random numbers: model.layers.2."),
        (one_layer_fewer, "holds weights that the model does not have: model.layers.1."),
    ],
)
def test_weights_that_do_not_fit_the_model_are_refused(
    change: Any, message: str, tiny_model: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    tmp_path: Path, no_weights: None,
) -> None:  # fmt: skip
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    damage(folder, change)
    done = adapterzoo("run", write_recipe("lora"), "--set", f"model.name={folder}", "--out", tmp_path / "o")
    assert done.exit_code == 2, done.output
    assert message in " ".join(done.stderr.split())
    assert not (tmp_path / "o").exists()


def test_a_missing_expert_is_named_as_the_folder_names_it(tmp_path: Path) -> None:
    """transformers joins experts while it loads them, and does not name an expert that is missing."""
    from transformers import MixtralConfig, MixtralForCausalLM

    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2, "num_key_value_heads": 2}
    config = MixtralConfig(vocab_size=32, num_hidden_layers=2, num_local_experts=4, **sizes)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    lost = "model.layers.1.block_sparse_moe.experts.2.w3.weight"
    damage(tmp_path, lambda weights, config: weights.pop(lost))
    with pytest.raises(UserError, match=f"which would be random numbers: {lost}\\."):
        check_weights(ModelSection(name=str(tmp_path)), str(tmp_path), config)


def test_masks_that_older_versions_saved_are_ignored(tmp_path: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(vocab_size=32, n_embd=16, n_layer=1, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    masks = {f"transformer.h.0.attn.{name}": torch.zeros(1) for name in ("bias", "masked_bias")}
    damage(tmp_path, lambda weights, config: weights.update(masks))
    check_weights(ModelSection(name=str(tmp_path)), str(tmp_path), config)


def test_weights_are_also_checked_when_they_are_loaded(tiny_model: Path, tmp_path: Path) -> None:
    """The weights of a model of the hub cannot be checked earlier."""
    from adapterzoo.model import base

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    damage(folder, rename_a_key)
    for quantization in ("none", "nf4"):
        with pytest.raises(UserError, match=r"random numbers: model\.layers\.0\.mlp\.up_proj\.weight"):
            base.load(ModelSection(name=str(folder)), str(folder), quantization, 64)


def test_a_head_that_a_task_adds_may_be_missing_and_another_may_be_there() -> None:
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    model = AutoModelForSequenceClassification.from_config(LlamaConfig(vocab_size=32, **sizes))
    keys = {"missing_keys": {"score.weight"}, "unexpected_keys": {"lm_head.weight"}, "mismatched_keys": set()}
    assert not weight_problems("m", keys, model)
    assert len(weight_problems("m", keys)) == 2
    lost = "model.layers.0.mlp.up_proj.weight"
    (problem,) = weight_problems("m", {**keys, "missing_keys": {"score.weight", lost}}, model)
    assert problem.what.endswith(f"random numbers: {lost}.")


def test_a_base_model_is_found_whatever_its_classes_call_it(tmp_path: Path) -> None:
    """transformers calls the base of a Llama that answers from a context by another name, and saves it under that."""
    from transformers import AutoModelForQuestionAnswering, LlamaConfig, LlamaForCausalLM

    from adapterzoo.model.loading import load_weights
    from adapterzoo.tasks.examples import ModelForm

    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_attention_heads": 2, "num_hidden_layers": 1}
    causal = LlamaForCausalLM(LlamaConfig(vocab_size=32, **sizes))
    causal.save_pretrained(tmp_path / "causal")
    section = ModelSection(name=str(tmp_path / "causal"), dtype="float32")
    form = ModelForm("AutoModelForQuestionAnswering", new_head=True)
    model = load_weights(section, section.name, "none", 64, form)
    weight = causal.model.layers[0].mlp.up_proj.weight
    assert torch.equal(model.transformer.layers[0].mlp.up_proj.weight, weight)
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForQuestionAnswering.from_pretrained(tmp_path / "saved")
    assert torch.equal(again.transformer.layers[0].mlp.up_proj.weight, weight)


def test_damaged_weights_give_no_traceback(
    tiny_model: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    content = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(content[:-100])
    done = adapterzoo("check", write_recipe("lora"), "--set", f"model.name={folder}")
    assert done.exit_code == 2, done.output
    assert "cannot be loaded" in done.stderr


def test_an_adapter_beside_the_weights_is_refused(
    tiny_model: Path, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    no_weights: None,
) -> None:  # fmt: skip
    """transformers would load it without being asked, and the base model would not be the untouched one."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    adapter = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), LoraConfig(r=2, task_type="CAUSAL_LM"))
    adapter.save_pretrained(folder)
    done = adapterzoo("check", write_recipe("lora"), "--set", f"model.name={folder}")
    assert done.exit_code == 2, done.output
    text = " ".join(done.stderr.split())
    assert f"{folder / 'adapter_config.json'}: is an adapter in the folder of the model" in text
    assert "Merge it into the weights first" in text


def test_a_model_without_sdpa_is_loaded_with_eager_attention(tmp_path: Path) -> None:
    from transformers import BloomConfig, BloomForCausalLM

    from adapterzoo.model.loading import load_weights

    BloomForCausalLM(BloomConfig(vocab_size=32, hidden_size=16, n_layer=1, n_head=2)).save_pretrained(tmp_path)
    model = load_weights(ModelSection(name=str(tmp_path), dtype="float32"), str(tmp_path), "none", 64)
    assert model.config._attn_implementation == "eager"


def test_sdpa_is_used_except_for_short_rows_in_bfloat16(tiny_model: Path) -> None:
    from adapterzoo.model.loading import load_weights

    for dtype, length, expected in (("float32", 64, "sdpa"), ("bfloat16", 64, "eager"), ("bfloat16", 4096, "sdpa")):
        model = load_weights(ModelSection(name=str(tiny_model), dtype=dtype), str(tiny_model), "none", length)
        assert model.config._attn_implementation == f"{expected}_by_row"


@pytest.mark.parametrize("quantization", ["int8", "nf4"])
@pytest.mark.parametrize("task_type", ["SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"])
def test_a_new_head_is_not_quantized(task_type: str, quantization: str) -> None:
    model = tiny_base("llama", quantization, task_type=task_type).get_model()
    weights = head_parameters(model)
    assert {str(weight.dtype) for weight in weights.values()} == {"torch.float32"}
    assert any(str(weight.dtype) in ("torch.int8", "torch.uint8") for weight in model.parameters())
    put_new_head(model, 0)
    model(input_ids=torch.tensor([[5, 6, 7]]))


def changed(name: str, **values: Any) -> Callable[[Path], None]:
    """Return a function that changes values in a JSON file of a model's folder."""

    def change(folder: Path) -> None:
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**settings, **values}))

    return change


def with_content(name: str, content: bytes) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(content) and None


def cut(name: str, share: float) -> Callable[[Path], None]:
    """Return a function that leaves only the beginning of a file."""

    def change(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[: int(len(content) * share)])

    return change


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 538090408\n"
WEIGHTS = "model.safetensors"


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (cut(WEIGHTS, 0.9), "model.safetensors: cannot be loaded: it is damaged, or its download was not finished ("),
        (cut(WEIGHTS, 0.001), "model.safetensors: cannot be loaded: it is damaged, or its download was not finished ("),
        (with_content(WEIGHTS, b""), "model.safetensors: cannot be loaded: it is damaged"),
        (with_content(WEIGHTS, b"<html>not found</html>" * 99), "model.safetensors: cannot be loaded: it is damaged"),
        (with_content(WEIGHTS, b"\xff" * 4096), "model.safetensors: cannot be loaded: it is damaged"),
        (
            with_content(WEIGHTS, LFS),
            "model.safetensors: is a pointer of Git LFS, and not the file itself. Run git lfs",
        ),
        (with_content("tokenizer.json", LFS), "tokenizer.json: is a pointer of Git LFS"),
        (with_content("config.json", LFS), "config.json: is a pointer of Git LFS"),
        (cut("tokenizer.json", 0.5), "cannot be loaded"),
        (with_content("tokenizer.json", b"\0\1\2"), "cannot be loaded"),
        (with_content("tokenizer.json", b"{}"), "cannot be loaded"),
        (cut("tokenizer_config.json", 0.5), "cannot be loaded"),
        (cut("config.json", 0.5), "cannot be loaded"),
        (with_content("config.json", b"[]"), "cannot be loaded"),
        (changed("config.json", hidden_size=128), "holds weights of other shapes than the model's"),
        (changed("config.json", vocab_size=10**12), "holds weights of other shapes than the model's"),
        (changed("config.json", hidden_size="x"), "cannot be loaded"),
        (
            changed("config.json", num_attention_heads=7),
            "The hidden size (64) is not a multiple of the number of attention",
        ),
        (changed("config.json", num_hidden_layers=3), "lacks weights of the model"),
        (
            changed("config.json", num_hidden_layers=10**9),
            "its config.json asks for 1,000,000,000 layers, and its files",
        ),
        (changed("config.json", num_hidden_layers=-1), "holds weights that the model does not have"),
        (changed("config.json", intermediate_size=None), ""),
    ],
)
def test_check_finds_what_is_wrong_with_the_files_of_a_model(
    damage: Callable[[Path], None], expected: str, tiny_model: Path, write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result], tmp_path: Path, no_weights: None,
) -> None:  # fmt: skip
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    damage(folder)
    done = adapterzoo("check", write_recipe("lora"), "--set", f"model.name={folder}")
    refused(done, str(folder), expected)
