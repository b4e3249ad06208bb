"""Check the repository's recipes: they load, have the published settings, and run on a small model and a few rows."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from operator import getitem
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result

from adapterzoo import load_recipe

RECIPES = sorted(Path("recipes").glob("*.yaml"))
DATA = Path("recipes/data")
PROJECTIONS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]

# The published settings of each pipeline; "lora." stands for the only entry of its methods.
PUBLISHED: dict[str, dict[str, Any]] = {
    "llama2-faq-sop": {
        "model.name": "FlagAlpha/Llama2-Chinese-7b-Chat",
        "model.quantization": "nf4",
        "model.double_quantization": True,
        "model.dtype": "bfloat16",
        "data.format": "qa",
        "data.template": "问题：{question}\n答案：{answer}",
        "data.loss_on": "all",
        "lora.r": 16,
        "lora.lora_alpha": 64,
        "lora.lora_dropout": 0.1,
        "lora.target_modules": PROJECTIONS,
        "lora.learning_rate": 2e-4,
        "train.steps": 80,
        "train.batch_size": 1,
        "train.gradient_accumulation": 4,
        "train.scheduler": "cosine",
        "train.warmup": 0.05,
        "train.optimizer": "paged_adamw_8bit",
        "train.loggers": ["tensorboard"],
    },
    "llama3-classifier": {
        "model.name": "meta-llama/Meta-Llama-3-8B-Instruct",
        "model.quantization": "nf4",
        "model.padding_token": "<|pad|>",
        "data.format": "qa",
        "data.template": None,
        "data.chat_template": "auto",
        "data.loss_on": "completion",
        "data.split.train": 0.8,
        "data.split.validation": 0.16,
        "data.split.test": 0.04,
        "lora.r": 32,
        "lora.lora_alpha": 16,
        "lora.learning_rate": 1e-4,
        "train.steps": None,
        "train.epochs": 1,
        "train.batch_size": 2,
        "train.gradient_accumulation": 4,
        "train.scheduler": "cosine",
        "train.warmup": 0.1,
        "train.eval_steps": 0.2,
        "train.save_steps": 0.2,
    },
    "llama2-input-output": {
        "model.name": "meta-llama/Llama-2-7b-hf",
        "data.format": "input_output",
        "data.loss_on": "completion",
        "lora.r": 8,
        "lora.target_modules": ["q_proj", "v_proj"],
        "lora.learning_rate": 3e-4,
        "train.steps": None,
        "train.epochs": 3,
        "train.batch_size": 4,
        "train.gradient_accumulation": 4,
        "train.warmup": 100,
        "train.eval_steps": 200,
    },
    "phi2-dialogsum": {
        "model.name": "microsoft/phi-2",
        "model.quantization": "nf4",
        "model.dtype": "float16",
        "data.source": ["knkarthick/dialogsum"],
        "data.columns": {"question": "dialogue", "answer": "summary"},
        "data.split.train": "train",
        "data.split.validation": "validation",
        "data.split.test": "test",
        "lora.r": 32,
        "lora.lora_alpha": 32,
        "lora.target_modules": ["q_proj", "k_proj", "v_proj", "dense"],
        "lora.learning_rate": 2e-4,
        "train.steps": 1000,
        "train.batch_size": 1,
        "train.gradient_accumulation": 4,
        "train.group_by_length": True,
        "train.optimizer": "paged_adamw_32bit",
        "train.eval_steps": 25,
        "evaluate.metrics": ["rouge", "loss"],
    },
    "decilm-lmsys-chat": {
        "model.name": "Deci/DeciLM-7B",
        "model.quantization": "nf4",
        "model.trust_remote_code": True,
        "data.source": ["lmsys/lmsys-chat-1m"],
        "data.filter": {"language": "English"},
        "data.limit": 25000,
        "data.split.train": 0.7,
        "data.split.validation": 0.15,
        "data.split.test": 0.15,
        "data.max_length": 8192,
        "lora.r": 32,
        "lora.lora_alpha": 64,
        "lora.target_modules": ["gate_proj", "up_proj", "down_proj"],
        "train.weight_decay": 0.1,
        "train.max_grad_norm": 0.3,
        "train.scheduler": "reduce_lr_on_plateau",
        "evaluate.metrics": ["rouge", "loss"],
    },
}

# Settings that replace what is on a hub, is not installed, or does not fit a small model or a few rows.
REPLACED: dict[str, tuple[str, ...]] = {
    "llama2-faq-sop": ("train.loggers=[]",),
    "llama3-classifier": (),
    "llama2-input-output": ("train.warmup=0", "train.eval_steps=1", "train.save_steps=1"),
    "phi2-dialogsum": (
        "data.source=null",
        *(f"data.split.{part}=[data/dialogsum_sample/{part}.jsonl]" for part in ("train", "validation", "test")),
        "train.eval_steps=1",
        "methods=[{name: lora, label: lora-r32, learning_rate: 2e-4, r: 32, target_modules: [q_proj, k_proj, v_proj]}]",
    ),
    "decilm-lmsys-chat": ("data.source=data/lmsys_sample.jsonl",),
}
ROWS = {
    "llama2-faq-sop": 20,
    "llama3-classifier": 60,  # 4 % of them are test rows
    "llama2-input-output": 20,
    "phi2-dialogsum": 4,
    "decilm-lmsys-chat": 14,
}
PIPELINES = sorted(PUBLISHED)


def path_of(name: str) -> Path:
    return Path("recipes") / f"{name}.yaml"


def opening(path: Path) -> str:
    """Return the comment at the start of a recipe, with continued lines joined."""
    comment = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert all(line.startswith("#") for line in comment.splitlines())
    return re.sub(r"\\\n#\s*", "", comment)


def small(name: str, *more: str) -> list[str]:
    settings = (
        *REPLACED[name],
        f"data.limit={ROWS[name]}",
        "train.epochs=null",
        "evaluate.max_new_tokens=4",
        *more,
    )
    return [part for setting in settings for part in ("--set", setting)]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_with_each_command_of_its_opening_comment(path: Path) -> None:
    load_recipe(path)
    assert opening(path).startswith("# ")
    assert "# Needs:" in opening(path)
    commands = re.findall(r"adapterzoo run .*?(?=   |\n|$)", opening(path))
    assert f"adapterzoo run {path}" in commands
    for command in commands:
        words = shlex.split(command)
        assert words[2] == str(path)
        overrides = [after for word, after in pairwise(words) if word == "--set"]
        assert len(words) == 3 + 2 * len(overrides)
        if "yours" not in command:  # the reader's own files do not exist here
            load_recipe(path, overrides)


def test_there_is_a_recipe_for_each_of_the_five_pipelines() -> None:
    assert len(PIPELINES) == 5
    assert set(PIPELINES) <= {path.stem for path in RECIPES}
    assert REPLACED.keys() == ROWS.keys() == PUBLISHED.keys()


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_has_its_published_settings(name: str) -> None:
    recipe = load_recipe(path_of(name))
    (method,) = recipe.methods
    assert method.name == "lora"
    settings: Any = {"lora": {**method.options, "learning_rate": method.learning_rate}, **recipe.model_dump()}
    found = {key: reduce(getitem, key.split("."), settings) for key in PUBLISHED[name]}
    assert found == PUBLISHED[name]


def test_two_pipelines_have_system_messages_and_the_plateau_scheduler_has_evaluations() -> None:
    assert load_recipe(path_of("llama3-classifier")).data.system
    chat = load_recipe(path_of("decilm-lmsys-chat"))
    assert chat.data.system
    assert chat.data.shuffle is not None
    assert chat.train.eval_steps


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_runs_on_a_tiny_model(
    name: str, adapterzoo: Callable[..., Result], tiny_model: Path, tmp_path: Path
) -> None:
    recipe = load_recipe(path_of(name))
    out = tmp_path / "out"
    # The tiny model has a token for each byte; a Chinese character has three bytes.
    settings = small(name, f"model.name={tiny_model}", "train.steps=2", "data.max_length=224", "evaluate.shots=0")
    done = adapterzoo("run", path_of(name), *settings, "--out", out)
    assert done.exit_code == 0, done.output
    printed = json.loads(adapterzoo("compare", out, "--format", "json").stdout)
    (entry,) = recipe.methods
    rows = {row["label"]: row for row in printed["rows"]}
    assert rows.keys() == {"base", entry.label}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert {row["quantization"] for row in rows.values()} == {recipe.model.quantization}
    assert rows[entry.label]["learning_rate"] == entry.learning_rate
    assert rows[entry.label]["metrics"]["test_loss"] != rows["base"]["metrics"]["test_loss"]  # it learned something
    measured = {"rouge1" if metric == "rouge" else metric for metric in recipe.evaluate.metrics} - {"loss"}
    assert measured <= rows[entry.label]["metrics"].keys()


def test_the_padding_token_of_the_classifier_is_saved_with_its_adapter(
    adapterzoo: Callable[..., Result], tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    settings = small("llama3-classifier", f"model.name={tiny_model}", "train.steps=2", "evaluate.base=false")
    done = adapterzoo("run", path_of("llama3-classifier"), *settings, "--set", "evaluate.shots=0", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "lora-r32" / "seed-0" / "adapter")
    assert tokenizer.pad_token == "<|pad|>"
    assert tokenizer.pad_token_id == len(AutoTokenizer.from_pretrained(tiny_model))


# All five run on the tiny model above; these two differ most in what they ask of the real one.
@pytest.mark.real
@pytest.mark.parametrize("name", ["llama3-classifier", "phi2-dialogsum"])
def test_a_pipeline_is_checked_and_runs_on_the_real_model(
    name: str, adapterzoo_process: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    settings = small(name, "model.name=smollm2-135m", "train.steps=2", "train.gradient_accumulation=1")
    if name == "phi2-dialogsum":
        settings += ["--set", "model.dtype=bfloat16"]  # float16 is slow on a CPU
    checked = adapterzoo_process("check", path_of(name), *settings)
    assert checked.returncode == 0, checked.stderr
    assert load_recipe(path_of(name)).methods[0].label in checked.stdout
    done = adapterzoo_process("run", path_of(name), *settings, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    printed = adapterzoo_process("compare", tmp_path / "out", "--format", "json").stdout
    assert {row["status"] for row in json.loads(printed)["rows"]} == {"ok"}
