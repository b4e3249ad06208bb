"""Read what the settings of ``accelerate launch`` ask for: how the processes divide a model."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from adapterzoo.errors import UserError
from adapterzoo.recipe.train import ZERO_STAGES, TrainSection

PLACE = "the accelerate config"
FSDP, DEEPSPEED = "ACCELERATE_USE_FSDP", "ACCELERATE_USE_DEEPSPEED"
STAGE, FILE = "ACCELERATE_DEEPSPEED_ZERO_STAGE", "ACCELERATE_DEEPSPEED_CONFIG_FILE"
OFFLOAD = {
    "ACCELERATE_DEEPSPEED_OFFLOAD_OPTIMIZER_DEVICE": "offload_optimizer",
    "ACCELERATE_DEEPSPEED_OFFLOAD_PARAM_DEVICE": "offload_param",
}
"""variable of accelerate -> the name of the same setting in DeepSpeed's file"""
IN_RECIPE = {
    # accelerate sets this one to 1 if the user says nothing, so 1 is no wish.
    "ACCELERATE_GRADIENT_ACCUMULATION_STEPS": ("gradient_accumulation_steps", "gradient_accumulation", "1"),
    "ACCELERATE_GRADIENT_CLIPPING": ("gradient_clipping", "max_grad_norm", "none"),
}
"""variable of accelerate -> the names of the same setting in DeepSpeed's file and in ``train``, and its default"""
UNSET = ("auto", "none", "None")
"""values by which accelerate leaves a setting open"""


def sharding_wanted(train: TrainSection) -> str:
    """Return how the processes divide a model: what the launcher asks for, or else what the recipe says.

    Afterwards accelerate does not see these settings any more, because it would divide the model once more, in its own
    way (see model/divided.py and training/zero.py).

    Args:
        train: the recipe's ``train`` section.

    Raises:
        UserError: the launcher asks for what is not there, or for something else than the recipe.
    """
    if _is_set("ACCELERATE_USE_MEGATRON_LM"):
        hint = "Choose DDP (--multi_gpu), FSDP with version 2, or DeepSpeed with ZeRO stage 2 or 3."
        raise UserError.at(PLACE, "asks for Megatron-LM, which adapterzoo does not use.", hint)
    asked = _zero(train) if _is_set(DEEPSPEED) else _fsdp() if _is_set(FSDP) else train.sharding
    if train.sharding not in ("none", asked):
        what = f"is {train.sharding}, but {PLACE} asks for {asked}."
        raise UserError.at("train.sharding", what, "Leave train.sharding out.")
    for variable in (FSDP, DEEPSPEED):
        os.environ.pop(variable, None)
    return asked


def _fsdp() -> str:
    if os.environ.get("FSDP_VERSION", "1") == "1":
        raise UserError.at(PLACE, "asks for FSDP 1.", "Give fsdp_version: 2.")
    return "fsdp2"


def _zero(train: TrainSection) -> str:
    """Return the value of ``train.sharding`` for the stage of ZeRO that DeepSpeed's settings have."""
    settings = _file_settings()
    division = settings.get("zero_optimization", {} if not settings else {"stage": 0})
    _refuse_other_values(train, settings)
    for variable, name in OFFLOAD.items():
        device = division.get(name, {}).get("device") or os.environ.get(variable) or "none"
        if device != "none":
            what = f"moves data to the {device} ({name}), which adapterzoo does not."
            raise UserError.at(PLACE, what, "Set its device to none.")
    stage = str(division.get("stage", os.environ.get(STAGE, "2")))
    found = {str(number): name for name, number in ZERO_STAGES.items()}.get(stage)
    if found is None:
        hint = "Choose stage 2 or 3, or DDP (--multi_gpu)."
        raise UserError.at(PLACE, f"asks for DeepSpeed with ZeRO stage {stage}.", hint)
    return found


def _refuse_other_values(train: TrainSection, settings: dict[str, Any]) -> None:
    """Refuse settings that the recipe has too, with other values.

    Raises:
        UserError: there is such a setting.
    """
    for variable, (name, key, default) in IN_RECIPE.items():
        value = settings[name] if name in settings else _number(os.environ.get(variable, default), default)
        own = getattr(train, key)
        if value not in (None, "auto", own):
            shown = f"{value:g}" if isinstance(value, (int, float)) else repr(value)
            hint = f"Leave {name} out of the config; the recipe says it."
            raise UserError.at(PLACE, f"has {name}: {shown}, and the recipe has train.{key}: {own:g}.", hint)


def _number(text: str, default: str) -> float | str | None:
    """Return a variable of accelerate as a number, as accelerate reads it; None if it leaves a setting open."""
    if text in (*UNSET, default):
        return None
    try:
        return float(text)
    except ValueError:
        return text


def _file_settings() -> dict[str, Any]:
    """Return the content of DeepSpeed's own file, if accelerate names one."""
    name = os.environ.get(FILE, "none")
    if name.lower() == "none":
        return {}
    try:
        settings: dict[str, Any] = TypeAdapter(dict[str, Any]).validate_json(Path(name).read_bytes())
        division = TypeAdapter(dict[str, Any]).validate_python(settings.get("zero_optimization", {}))
        TypeAdapter(dict[str, dict[str, Any]]).validate_python({key: division.get(key, {}) for key in OFFLOAD.values()})
    except (OSError, ValueError):
        raise UserError.at(PLACE, f"names the file {name}, which is no JSON file of DeepSpeed's.") from None
    return settings


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").lower() in ("1", "true", "yes")
