"""Merge a trained adapter into its base, and check that the written model answers like the adapter."""

from __future__ import annotations

import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.adapters.finding import Adapter, Say
from adapterzoo.adapters.loading import apply_adapter, load_base, question_row
from adapterzoo.errors import UserError
from adapterzoo.files import remove, temporary_path
from adapterzoo.methods.registry import registry
from adapterzoo.results.intact import read_lines
from adapterzoo.results.store import PREDICTIONS

if TYPE_CHECKING:
    import torch

    from adapterzoo.tokens.encode import Encoder

# Accept that rounding to a dtype changes logits by this share of their standard deviation, on average.
ROUNDING = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.15}
# Ignore differences of logits below this share of their standard deviation.
NEGLIGIBLE = 1e-4
USE_ADAPTER = "Use the adapter as it is."
SENTENCE = "The quick brown fox jumps over the lazy dog."
# Compare on some questions of the test split as well, because there the adapter answers differently than its base.
QUESTIONS = 4
# Compare only this many last positions of a text: all logits of a long text would take gigabytes.
POSITIONS = 32


def merge(adapter: Adapter, to: Path, say: Say) -> None:
    """Write base and adapter as one plain model folder, in the recipe's dtype and without quantization.

    The model is written to a temporary folder, which is renamed once the model was loaded again and answers correctly.

    Raises:
        UserError: the folder is not empty, or the adapter cannot be merged into this base without changing its answers.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError.at(f"--to {to}", "already exists.", "Give another folder.")
    method = registry()[adapter.result.method or ""]
    if not method.mergeable_into and method.requires_quantization is None:
        raise UserError.at(f"--method {adapter.result.label}", f"{method.name} has nothing to merge into a model.")
    if adapter.result.quantization != "none":
        say(f"trained on {adapter.result.quantization}, merged without quantization: its answers may differ a little")
    written = temporary_path(to.absolute())
    remove(written)  # a merge that was killed may have left it
    try:
        logits = _write_merged(adapter, written, say)
        _check_merged(adapter, logits, _reloaded_logits(adapter, written, logits.texts))
        if not to.exists():
            os.replace(written, to)
        else:  # keep the empty folder, because the user may be in it
            for path in written.iterdir():
                os.replace(path, to / path.name)
    finally:
        shutil.rmtree(written, ignore_errors=True)


class _Logits(NamedTuple):
    """Logits of three models on the same texts, each of shape (tokens, vocabulary)."""

    texts: list[list[int]]
    """token ids of the texts"""
    base: torch.Tensor
    """logits of the base"""
    trained: torch.Tensor
    """logits of the base with the adapter on it"""
    merged: torch.Tensor
    """logits of the merged model in memory"""


def _write_merged(adapter: Adapter, to: Path, say: Say) -> _Logits:
    """Merge and write the model, and return the logits from before and after; the model's memory is free afterwards."""
    import torch
    from safetensors import SafetensorError

    loaded, encoder = load_base(adapter, "none", say)
    with loaded.borrow() as model, torch.no_grad():
        texts = _texts(adapter, encoder)
        base = _logits(model, texts)
        wrapped = apply_adapter(adapter, model, "none")
        trained = _logits(wrapped, texts)
        merged: Any = registry()[adapter.result.method or ""].merge(wrapped)
        logits = _Logits(texts, base, trained, _logits(merged, texts))
        try:
            merged.save_pretrained(str(to))
            encoder.tokenizer.save_pretrained(str(to))
        except (OSError, SafetensorError) as error:
            hint = "Free some disk space, or give another folder."
            raise UserError.at(f"--to {to.parent}", f"cannot be written: {error}.", hint) from None
    return logits


def _texts(adapter: Adapter, encoder: Encoder) -> list[list[int]]:
    """Return the token ids of texts to compare models on: one sentence, and some questions of the test split."""
    texts: list[list[int]] = [encoder.tokenizer(SENTENCE)["input_ids"]]
    for line in read_lines(adapter.path.parent / PREDICTIONS)[:QUESTIONS]:
        with suppress(UserError):  # the recipe's template may need more than a question
            texts.append(encoder.prompt(question_row(adapter.recipe.data, str(line.get("prompt")))))
    return texts


def _reloaded_logits(adapter: Adapter, folder: Path, texts: list[list[int]]) -> torch.Tensor:
    """Load the model in a folder, and return its logits on some texts.

    Raises:
        UserError: the folder does not hold a complete model.
    """
    import torch

    from adapterzoo.model.loading import load_weights

    section = adapter.recipe.model.model_copy(update={"name": str(folder), "revision": None, "padding_token": None})
    with torch.no_grad():
        model = load_weights(section, str(folder), "none", adapter.recipe.data.max_length).eval()
        return _logits(model, texts)


def _logits(model: Any, texts: list[list[int]]) -> torch.Tensor:
    """Return the logits of the last positions of each text, one text after the other."""
    import torch

    device = next(model.parameters()).device
    inputs = [torch.tensor([ids], device=device) for ids in texts]
    return torch.cat([model(ids).logits[0, -POSITIONS:].float().cpu() for ids in inputs])


def _check_merged(adapter: Adapter, logits: _Logits, written: torch.Tensor) -> None:
    """Raise UserError if the merged model, in memory or loaded again, does not answer like the adapter."""

    def difference(first: torch.Tensor, second: torch.Tensor) -> float:
        return float((first - second).abs().mean() / logits.trained.std())

    limit = ROUNDING[adapter.recipe.model.dtype]
    if not (change := difference(logits.merged, logits.trained)) < limit:
        what = f"merging changes its logits by {change:.2g} of their standard deviation."
        raise UserError.at(f"--method {adapter.result.label}", what, USE_ADAPTER)
    effect, error = difference(logits.base, logits.trained), difference(written, logits.trained)
    # An error that rounding explains may still be as large as the whole effect of the adapter.
    if not error < limit or (error > NEGLIGIBLE and error > effect / 2):
        what = (
            f"the adapter changes the logits by {effect:.2g} of their standard deviation, and the merged model differs "
            f"from it by {error:.2g}. The merged model does not answer like the adapter; nothing was written."
        )
        raise UserError.at(f"--method {adapter.result.label}", what, USE_ADAPTER)
