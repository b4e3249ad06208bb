"""Merge a trained adapter into its base: one plain model folder, which was seen to hold the adapter."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.adapters.loading import Adapter, Say, base_of, question, wrapped_by
from adapterzoo.comparison.scores import read_lines
from adapterzoo.errors import UserError
from adapterzoo.files import remove_folder, temporary_path
from adapterzoo.methods.registry import registry
from adapterzoo.results.store import PREDICTIONS

if TYPE_CHECKING:
    import torch

    from adapterzoo.tokens.encode import Encoder

# Rounding may move logits by so much of their own spread, by dtype.
ROUNDING = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.15}
SAME = 1e-4  # a difference of logits, in their spread, that is none
USE_ADAPTER = "Use the adapter as it is."
PROBE = "The quick brown fox jumps over the lazy dog."
QUESTIONS = 4  # of the test split, which an adapter answers otherwise than its base
POSITIONS = 32  # the last ones of a text: logits of all would take gigabytes where texts are long


def merge(adapter: Adapter, to: Path, say: Say) -> None:
    """Write base and adapter as one plain model folder, in the recipe's dtype and without quantization.

    What was written is loaded again and asked before it gets its name.

    Raises:
        UserError: the folder is taken, or the method's adapter cannot be merged into this base without changing
            what it answers.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError.at(f"--to {to}", "is there already.", "Give another folder.")
    method = registry()[adapter.result.method or ""]
    if not method.mergeable_into and method.requires_quantization is None:
        raise UserError.at(f"--method {adapter.result.label}", f"{method.name} has nothing to merge into a model.")
    if adapter.result.quantization != "none":
        say(f"trained on {adapter.result.quantization}, merged without quantization: its answers may differ a little")
    written = temporary_path(to.absolute())
    remove_folder(written)  # of a merge that was killed
    try:
        found = _write_merged(adapter, written, say)
        _check_merged(adapter, found, _reloaded(adapter, written, found.probes))
        if not to.exists():
            os.replace(written, to)
        else:  # an empty folder, which may be the one that the user is in
            for path in written.iterdir():
                os.replace(path, to / path.name)
    finally:
        shutil.rmtree(written, ignore_errors=True)


class _Logits(NamedTuple):
    """Logits of the same texts, each of shape (tokens, vocabulary): of the base, with the adapter on it, and merged."""

    probes: list[list[int]]
    """the texts, as token ids"""
    base: torch.Tensor
    trained: torch.Tensor
    merged: torch.Tensor


def _write_merged(adapter: Adapter, to: Path, say: Say) -> _Logits:
    """Merge and write; on return, no model is held any more."""
    import torch
    from safetensors import SafetensorError

    lent, encoder = base_of(adapter, "none", say)
    with lent.borrow() as plain, torch.no_grad():
        probes = _probes(adapter, encoder)
        base = _logits(plain, probes)
        wrapped = wrapped_by(adapter, plain)
        trained = _logits(wrapped, probes)
        merged: Any = registry()[adapter.result.method or ""].merge(wrapped)
        found = _Logits(probes, base, trained, _logits(merged, probes))
        try:
            merged.save_pretrained(str(to))
            encoder.tokenizer.save_pretrained(str(to))
        except (OSError, SafetensorError) as error:
            raise UserError.at(
                f"--to {to.parent}", f"cannot be written: {error}.", "Make room, or give another."
            ) from None
    return found


def _probes(adapter: Adapter, encoder: Encoder) -> list[list[int]]:
    """Return the texts that models are compared by: a sentence, and questions that the adapter was measured with."""
    found: list[list[int]] = [encoder.tokenizer(PROBE)["input_ids"]]
    for line in read_lines(adapter.path.parent / PREDICTIONS)[:QUESTIONS]:
        with suppress(UserError):  # a recipe's template may ask for more than a question
            found.append(encoder.prompt(question(adapter.recipe.data, str(line.get("prompt")))))
    return found


def _reloaded(adapter: Adapter, folder: Path, probes: list[list[int]]) -> torch.Tensor:
    """Return what the model in a folder makes of some texts.

    Raises:
        UserError: the folder does not hold one whole model.
    """
    import torch

    from adapterzoo.model.loading import load_weights

    section = adapter.recipe.model.model_copy(update={"name": str(folder), "revision": None, "padding_token": None})
    with torch.no_grad():
        model = load_weights(section, str(folder), "none", adapter.recipe.data.max_length).eval()
        return _logits(model, probes)


def _logits(model: Any, probes: list[list[int]]) -> torch.Tensor:
    """Return the logits of the last positions of each text, one text after the other."""
    import torch

    where = next(model.parameters()).device
    texts = [torch.tensor([ids], device=where) for ids in probes]
    return torch.cat([model(ids).logits[0, -POSITIONS:].float().cpu() for ids in texts])


def _check_merged(adapter: Adapter, found: _Logits, written: torch.Tensor) -> None:
    """Raise UserError where the merged model, in memory or as it was written, does not answer like the adapter."""

    def apart(one: torch.Tensor, other: torch.Tensor) -> float:
        return float((one - other).abs().mean() / found.trained.std())

    limit = ROUNDING[adapter.recipe.model.dtype]
    if not (moved := apart(found.merged, found.trained)) < limit:
        what = f"merging moves its answers by {moved:.2g} of their spread."
        raise UserError.at(f"--method {adapter.result.label}", what, USE_ADAPTER)
    effect, error = apart(found.base, found.trained), apart(written, found.trained)
    # A difference that rounding explains may still be as large as all that the adapter does.
    if not error < limit or (error > SAME and error > effect / 2):
        what = f"its effect is {effect:.2g} of the answers' spread, and what was merged and written is {error:.2g} off."
        lost = "The merged weights do not hold the adapter; nothing was written."
        raise UserError.at(f"--method {adapter.result.label}", f"{what} {lost}", USE_ADAPTER)
