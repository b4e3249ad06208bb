"""Check what the settings of ``accelerate launch`` mean, and which of them are refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from adapterzoo.errors import UserError
from adapterzoo.recipe.train import TrainSection
from adapterzoo.running.launcher_settings import sharding_wanted

USE, PREFIX = "ACCELERATE_USE_DEEPSPEED", "ACCELERATE_DEEPSPEED_"
FILE = f"{PREFIX}CONFIG_FILE"


def train(**values: object) -> TrainSection:
    return TrainSection.model_validate({"devices": 2, "steps": 1, **values})


@pytest.mark.parametrize(
    ("variables", "sharding"),
    [
        ({}, "none"),
        ({"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}, "fsdp2"),
        ({USE: "true"}, "zero2"),  # what accelerate takes without a stage
        ({USE: "true", f"{PREFIX}ZERO_STAGE": "3", f"{PREFIX}OFFLOAD_PARAM_DEVICE": "none"}, "zero3"),
        ({USE: "true", f"{PREFIX}ZERO_STAGE": "2", "ACCELERATE_GRADIENT_CLIPPING": "1.0"}, "zero2"),
    ],
)
def test_the_launcher_says_how_a_model_is_divided(
    variables: dict[str, str], sharding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert sharding_wanted(train()) == sharding
    assert USE not in os.environ, "accelerate would divide the model once more"


@pytest.mark.parametrize(
    ("variables", "settings", "why"),
    [
        ({f"{PREFIX}ZERO_STAGE": "1"}, {}, "the accelerate config: asks for DeepSpeed with ZeRO stage 1."),
        ({}, {"sharding": "fsdp2"}, "train.sharding: is fsdp2, but the accelerate config asks for zero2."),
        ({f"{PREFIX}OFFLOAD_OPTIMIZER_DEVICE": "cpu"}, {}, "moves data to the cpu (offload_optimizer)"),
        ({"ACCELERATE_GRADIENT_CLIPPING": "1"}, {"max_grad_norm": 0.5}, "gradient_clipping: 1, and the recipe has"),
        ({"ACCELERATE_GRADIENT_CLIPPING": "0.5"}, {}, "gradient_clipping: 0.5, and the recipe has train.max_grad_norm"),
        (
            {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "4"},
            {"gradient_accumulation": 2},
            "gradient_accumulation_steps: 4, and the recipe has train.gradient_accumulation: 2.",
        ),
        ({FILE: "/not/there.json"}, {}, "names the file /not/there.json, which is no JSON file of DeepSpeed's."),
        ({"ACCELERATE_USE_MEGATRON_LM": "true"}, {}, "asks for Megatron-LM, which adapterzoo does not use."),
    ],
)
def test_what_is_not_there_is_refused(
    variables: dict[str, str], settings: dict[str, object], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {USE: "true", **variables}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError) as refused:
        sharding_wanted(train(**settings))
    assert why in str(refused.value)


def test_a_file_of_deepspeed_says_the_stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_file({"zero_optimization": {"stage": 3}, "gradient_clipping": "auto"}, tmp_path, monkeypatch)
    assert sharding_wanted(train()) == "zero3"


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("gradient_accumulation_steps", 1, "1"),
        ("gradient_accumulation_steps", "2", "'2'"),
        ("gradient_clipping", "none", "'none'"),
        ("gradient_clipping", 0.5, "0.5"),
        ("gradient_accumulation_steps", 2.0, None),
        ("gradient_clipping", 1, None),
        ("gradient_clipping", None, None),
    ],
)
def test_a_file_may_only_have_the_numbers_of_the_recipe(
    name: str, value: object, shown: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSpeed takes a value as its file has it: a text is no number, and 1 is a wish."""
    write_file({"zero_optimization": {"stage": 3}, name: value}, tmp_path, monkeypatch)
    recipe = train(gradient_accumulation=2, max_grad_norm=1.0)
    if shown is None:
        assert sharding_wanted(recipe) == "zero3"
        return
    with pytest.raises(UserError, match=f"has {name}: {shown}, and the recipe has train"):
        sharding_wanted(recipe)


def write_file(content: object, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "ds.json").write_text(json.dumps(content))
    monkeypatch.setenv(USE, "true")
    monkeypatch.setenv(FILE, str(folder / "ds.json"))


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ({"zero_optimization": {"stage": 2, "offload_param": {"device": "nvme"}}}, "moves data to the nvme"),
        ({"fp16": {"enabled": True}}, "asks for DeepSpeed with ZeRO stage 0."),
        ([1, 2], "which is no JSON file of DeepSpeed's."),
        ({"zero_optimization": {"offload_param": 7}}, "which is no JSON file of DeepSpeed's."),
    ],
)
def test_a_file_that_asks_for_more_is_refused(
    content: object, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_file(content, tmp_path, monkeypatch)
    with pytest.raises(UserError) as refused:
        sharding_wanted(train())
    assert why in str(refused.value)
