"""Merge a trained adapter into its base, and check that the written model answers like the adapter."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from adapterzoo.adapters.change import ScoreChange, TestRows
from adapterzoo.adapters.finding import Adapter, Say
from adapterzoo.adapters.loading import apply_adapter, load_base, recorded_prompt
from adapterzoo.adapters.merged_files import MergedFiles
from adapterzoo.adapters.merging_in_parts import USE_ADAPTER, merge_part, of_all_parts
from adapterzoo.errors import UserError
from adapterzoo.files import new_folder, require_free
from adapterzoo.machine.memory import available
from adapterzoo.methods.registry import registry
from adapterzoo.quantizations.contract import NONE
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.results.intact import read_lines
from adapterzoo.results.store import PREDICTIONS
from adapterzoo.tasks.examples import CAUSAL_FORM

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapterzoo.model.base import Base
    from adapterzoo.model.parts import Part
    from adapterzoo.tokens.encode import Encoder

# Accept that rounding to a dtype changes logits by this share of their standard deviation, on average.
ROUNDING = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.15}
# Ignore differences of logits below this share of their standard deviation.
NEGLIGIBLE = 1e-4
SENTENCE = "The quick brown fox jumps over the lazy dog."
# Compare on some questions of the test split as well, because there the adapter answers differently than its base.
QUESTIONS = 4
# Compare only this many last positions of a text: all logits of a long text would take gigabytes.
POSITIONS = 32


class Merger:
    """Merges adapters of one run into their base model, which stays loaded as long as the next one needs the same."""

    def __init__(self, say: Say, *, measure: bool = True) -> None:
        self.say = say
        self.measure = measure
        """whether merged models are measured on the test rows"""
        self._bases: dict[str, Base] = {}
        """quantization -> base model"""
        self._rows: TestRows | None = None
        self._rows_are_read = False

    def merge(self, adapter: Adapter, to: Path) -> list[ScoreChange]:
        """Write base and adapter as one plain model folder, in the recipe's dtype and without quantization.

        The folder appears only after the model in it was loaded again and answers correctly.

        Returns:
            How the scores of the test rows change; nothing if they were not measured.

        Raises:
            UserError: the folder is not empty, or the adapter cannot be merged into this base without changing its
                answers.
        """
        check_mergeable(adapter, to)
        if adapter.result.quantization != NONE:
            self.say(
                f"{adapter.result.label}: trained on {adapter.result.quantization}, merged without quantization: "
                f"the base model's weights get the values that they had on {adapter.result.quantization}"
            )
        with new_folder(to) as written:
            logits = self._write(adapter, written)
            model = load_merged(adapter, written)
            _check_merged(adapter, logits, _logits(model, logits.texts))
            return self._rows.change(adapter, model, self.say) if self._rows is not None else []

    def _base(self, adapter: Adapter) -> tuple[Base, Encoder]:
        quantization = adapter.result.quantization
        known = self._bases.get(quantization)
        self._bases.clear()  # the memory may not be enough for two
        base, encoder = load_base(adapter, quantization, self.say, (), known)
        self._bases[quantization] = base
        return base, encoder

    def _write(self, adapter: Adapter, to: Path) -> _Logits:
        """Merge and write the model, and return the logits from before."""
        base, encoder = self._base(adapter)
        texts = _texts(adapter, encoder)
        with base.borrow() as model:
            untouched = _logits(model, texts)
            trained = _logits(apply_adapter(adapter, model, adapter.result.quantization), texts)
        if self.measure and not self._rows_are_read:
            self._rows, self._rows_are_read = TestRows.of(adapter, base, self.say), True

        def write(pieces: Iterator[Part]) -> None:
            files = MergedFiles(to)
            for part in pieces:
                files.add(merge_part(adapter, part))
            files.finish(encoder.tokenizer)

        of_all_parts(adapter, base, self.say, write)
        base.invalidate()  # the memory may not be enough for the merged model beside it
        return _Logits(texts, untouched, trained)


def check_mergeable(adapter: Adapter, to: Path | None = None) -> None:
    """Raise UserError if the method has nothing to merge, or the folder to write is not empty."""
    if to is not None:
        require_free(to, "--to")
    method = registry()[adapter.result.method or ""]
    if not method.mergeable_into and method.requires_quantization is None:
        raise UserError.at(f"--method {adapter.result.label}", f"{method.name} has nothing to merge into a model.")


class _Logits(NamedTuple):
    """Logits of two models on the same texts, each of shape (tokens, vocabulary)."""

    texts: list[list[int]]
    """token ids of the texts"""
    base: torch.Tensor
    """logits of the base"""
    trained: torch.Tensor
    """logits of the base with the adapter on it"""


def _texts(adapter: Adapter, encoder: Encoder) -> list[list[int]]:
    """Return the token ids of texts to compare models on: one sentence, and some questions of the test split."""
    texts: list[list[int]] = [encoder.tokenizer(SENTENCE)["input_ids"]]
    for line in read_lines(adapter.path.parent / PREDICTIONS)[:QUESTIONS]:
        with suppress(UserError):  # the recipe's template may need more than a question
            texts.append(recorded_prompt(encoder, adapter, str(line.get("prompt"))))
    return texts


def load_merged(adapter: Adapter, folder: Path) -> nn.Module:
    """Load the model in a folder, and keep it where the recipe says, or in several places if a GPU is too small for it.

    Raises:
        UserError: the folder does not hold a complete model.
    """
    from adapterzoo.model.config import load_config
    from adapterzoo.model.loading import device, load_weights
    from adapterzoo.model.placing import choose_places

    here: dict[str, Any] = {"name": str(folder), "revision": None, "padding_token": None}
    size = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
    # On a CPU the weights are mapped from the files, because they have the recipe's dtype.
    if adapter.recipe.model.device_map is None and device() != "cpu" and size > available():
        here["device_map"] = "auto"
    section = adapter.recipe.model.model_copy(update=here)
    places = None
    if section.device_map is not None:
        places = choose_places(section, str(folder), load_config(section, str(folder)), CAUSAL_FORM)
    loaded = load_weights(section, str(folder), NONE, adapter.recipe.data.max_length, places=places)
    return loaded.requires_grad_(False).eval()


def _logits(model: Any, texts: list[list[int]]) -> torch.Tensor:
    """Return the logits of the last positions of each text, one text after the other."""
    import torch

    device = next(model.parameters()).device
    inputs = [torch.tensor([ids], device=device) for ids in texts]
    with torch.no_grad():
        return torch.cat([model(ids).logits[0, -POSITIONS:].float().cpu() for ids in inputs])


def _check_merged(adapter: Adapter, logits: _Logits, written: torch.Tensor) -> None:
    """Raise UserError if the merged model, loaded again, does not answer like the adapter."""

    def difference(first: torch.Tensor, second: torch.Tensor) -> float:
        return float((first - second).abs().mean() / logits.trained.std())

    # Some quantized base models also round what goes into their layers, which no merged model does.
    rounded_inputs = quantizations()[adapter.result.quantization].rounded_inputs
    limit = max(ROUNDING[adapter.recipe.model.dtype], rounded_inputs)
    effect, error = difference(logits.base, logits.trained), difference(written, logits.trained)
    # An error that rounding explains may still be as large as the whole effect of the adapter.
    if not error < limit or (error > NEGLIGIBLE and error > effect / 2):
        what = (
            f"the adapter changes the logits by {effect:.2g} of their standard deviation, and the merged model differs "
            f"from it by {error:.2g}. The merged model does not answer like the adapter; nothing was written."
        )
        raise UserError.at(f"--method {adapter.result.label}", what, USE_ADAPTER)
