"""Say why a model cannot be loaded."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.errors import Problem, UserError, did_you_mean
from adapterzoo.model.bundled import BUNDLED
from adapterzoo.model.head import is_base_weight

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.recipe.schema import ModelSection

TRUST_HINT = "If you trust its authors, set model.trust_remote_code: true."
MAX_KEYS_SHOWN = 3  # further keys of a kind are only counted
# Attention masks that older versions of transformers saved with the weights; newer ones do not need them.
OLD_MASKS = re.compile(r"\.attn(\.attention)?\.(masked_)?bias$")


def loading_error(model: ModelSection, error: Exception) -> UserError:
    """Return the message for a model, or its tokenizer, that cannot be loaded."""
    text = str(error)
    lines = text.strip().splitlines() or [type(error).__name__]
    if lines[0].endswith(":"):  # the reason is on the second line
        lines = [" ".join(line.strip() for line in lines[:2])]
    reason = lines[0].rstrip(".")
    hint = _name_hint(model.name).strip()
    if "gated repo" in text:
        reason = "it is gated: its owners ask who uses it"
        hint = f"Accept their terms at https://huggingface.co/{model.name}, then log in (hf auth login)."
    elif "trust_remote_code" in text:
        reason = "it comes with its own code, which is not run without your permission"
        hint = TRUST_HINT
    elif model.trust_remote_code:
        hint = f"Its own code may need another version of transformers. {hint}".strip()
    return UserError.at(f"model {model.name}", f"cannot be loaded: {reason}.", hint)


def _name_hint(name: str) -> str:
    """Return the most similar bundled name, and a hint if there is no folder with this name."""
    hint = did_you_mean(name, BUNDLED)
    offline = " HF_HUB_OFFLINE is set, so no hub was asked." if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    bundled = f"Bundled models: {', '.join(BUNDLED)}."
    exists = "" if Path(name).exists() else f" There is no such folder here.{offline} {bundled}"
    return (hint if hint.startswith("Did") else "") + exists


def weight_problems(name: str, keys: Mapping[str, Any], new_head: nn.Module | None = None) -> list[Problem]:
    """Return the problems with a model's weights that transformers reports when it loads them.

    Args:
        name: name of the model, for the message.
        keys: ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys`` (each with both shapes), if there are any.
        new_head: the model if its head is new: it may then lack the weights of that head, and hold those of another.
    """
    missing, unexpected = (
        [key for key in keys.get(kind, ()) if new_head is None or is_base_weight(new_head, key)]
        for kind in ("missing_keys", "unexpected_keys")
    )
    unexpected = [key for key in unexpected if not OLD_MASKS.search(key)]
    mismatched = keys.get("mismatched_keys", ())
    shapes = [f"{key} is {tuple(shape)} instead of {tuple(wanted)}" for key, shape, wanted in mismatched]
    kinds = (
        (missing, "lacks weights of the model, which would be random numbers"),
        (unexpected, "holds weights that the model does not have"),
        (shapes, "holds weights of other shapes than the model's"),
    )
    hint = "Its config.json and its weights do not belong together, or a file is damaged: download both again."
    if new_head is not None and missing and all(".pooler." in key for key in missing):
        hint = "It was trained without a pooler, which this task needs: choose a model that has one."
    return [Problem(f"model {name}", f"{what}: {_listed(weights)}.", hint) for weights, what in kinds if weights]


def _listed(keys: Sequence[str]) -> str:
    shown = sorted(keys)[:MAX_KEYS_SHOWN]
    more = len(keys) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")
