"""Trained adapters, to be used: found in an output folder, put on the base they were trained on, asked, merged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo import document
from adapterzoo.data.row import BadRowError, EmptyRowError, Row, Turn
from adapterzoo.errors import UserError, did_you_mean
from adapterzoo.formats import FORMATS, Conversation
from adapterzoo.recipe import DataSection, Recipe
from adapterzoo.registry import registry
from adapterzoo.results import Result, read_results
from adapterzoo.store import ADAPTER, RECIPE, Store

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.tokens.encode import Encoder

Say = Callable[[str], None]
# What a merge may move the logits by, in their own spread: rounding, by dtype.
ROUNDING = {"float32": 1e-3, "float16": 0.05, "bfloat16": 0.15}
PROBE = "The quick brown fox jumps over the lazy dog."


@dataclass(frozen=True)
class Adapter:
    """One finished cell of an output folder."""

    folder: Path
    """of the whole run"""
    recipe: Recipe
    result: Result

    @property
    def path(self) -> Path:
        """Where its weights and its tokenizer are."""
        return self.folder / self.result.label / f"seed-{self.result.seed}" / ADAPTER


def find(folder: Path, method: str, seed: int | None = None) -> Adapter:
    """The adapter of a label or a method; of the first seed, if none is named.

    Raises:
        UserError: the folder holds no such adapter, or it was made on other weights.
    """
    results = [result for _, result in read_results(folder) if result.method is not None]
    named = [result for result in results if result.label == method] or [r for r in results if r.method == method]
    if not named:
        known = sorted({result.label for result in results})
        raise UserError.at(f"--method {method}", f"{folder} has no such adapter.", did_you_mean(method, known))
    if len({result.label for result in named}) > 1:
        labels = ", ".join(sorted({result.label for result in named}))
        raise UserError.at(f"--method {method}", f"there are several: {labels}.", "Name one of these.")
    chosen = next((result for result in named if seed is None or result.seed == seed), None)
    if chosen is None:
        seeds = ", ".join(str(result.seed) for result in named)
        raise UserError.at(f"--seed {seed}", f"'{method}' was trained with: {seeds}.")
    if not chosen.ok:
        raise UserError.at(f"--method {method}", f"it failed: {chosen.error}", "Run the recipe again.")
    recipe = Recipe.model_validate(document.read(folder / RECIPE).data)
    return Adapter(folder, recipe, chosen)


@contextmanager
def loaded(adapter: Adapter, quantization: str, say: Say) -> Iterator[tuple[nn.Module, Encoder]]:
    """The base with the adapter on it, ready to answer, and what turns questions into tokens.

    Raises:
        UserError: the base cannot be had, or is not the one that it was trained on.
    """
    from adapterzoo import base, loading
    from adapterzoo.tokens.encode import Encoder, load_tokenizer

    model = adapter.recipe.model
    location = loading.locate(model.name, say)
    _check_weights(adapter, loading.fingerprint(location, loading.load_config(model, location)))
    # The tokenizer that was trained with: with its template, and a padding token that was added.
    tokenizer = load_tokenizer(model.model_copy(update={"revision": None, "padding_token": None}), str(adapter.path))
    data = adapter.recipe.data
    if data.chat_template not in ("auto", "plain"):
        data = data.model_copy(update={"chat_template": "auto"})
    encoder = Encoder(tokenizer, data)
    lent = base.load(model, location, quantization, data.max_length, encoder.vocabulary)
    with lent.lend() as plain:
        wrapped = registry()[adapter.result.method or ""].load(plain, adapter.path)
        wrapped.eval()
        yield wrapped, encoder


def question(data: DataSection, prompt: str) -> Row:
    """A question as a row of the recipe's format, to be answered.

    Raises:
        UserError: the recipe's template asks for more than a question.
    """
    from adapterzoo.data.shape import Shaper

    form = FORMATS[data.format]
    if data.format == "text":
        return Row((Turn("user", prompt), Turn("assistant", "?")), raw=True)
    if isinstance(form, Conversation):
        return Row((Turn("user", prompt), Turn("assistant", "?")))
    columns = [data.columns.get(name, name) for name in form.columns]
    try:
        shaper = Shaper(data.model_copy(update={"filter": {}, "drop_columns": []}), columns, "--prompt", lambda _: None)
    except UserError as error:
        what = "needs more than a question: " + "; ".join(problem.what for problem in error.problems)
        raise UserError.at("data.template", what, "Such an adapter cannot be asked from here.") from None
    cells: dict[str, Any] = dict(zip(columns, (prompt, "?"), strict=True))
    try:
        return shaper.row("--prompt", cells)
    except EmptyRowError:
        raise UserError.at("--prompt", "is empty.") from None
    except BadRowError as error:
        raise UserError.at("--prompt", error.what, error.cure) from None


def merge(adapter: Adapter, to: Path, say: Say) -> None:
    """Write base and adapter as one plain model folder, in the recipe's dtype and without quantization.

    Raises:
        UserError: the folder is taken, or the method's adapter cannot be merged into this base without changing
            what it answers.
    """
    import torch

    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError.at(f"--to {to}", "is there already.", "Give another folder.")
    method = registry()[adapter.result.method or ""]
    if not method.merges and method.demands is None:
        raise UserError.at(f"--method {adapter.result.label}", f"{method.name} has nothing to merge into a model.")
    if adapter.result.base != "none":
        say(f"trained on {adapter.result.base}, merged without quantization: its answers may differ a little")
    with loaded(adapter, "none", say) as (wrapped, encoder), torch.no_grad():
        ids = torch.tensor([encoder.tokenizer(PROBE)["input_ids"]])
        ids = ids.to(next(wrapped.parameters()).device)
        before = wrapped(ids).logits.float()
        merged: Any = method.merge(wrapped)
        moved = (merged(ids).logits.float() - before).abs().mean() / before.std()
        if not moved < ROUNDING[adapter.recipe.model.dtype]:
            what = f"merging moves its answers by {moved:.2g} of their spread."
            raise UserError.at(f"--method {adapter.result.label}", what, "Use the adapter as it is.")
        merged.save_pretrained(str(to))
        encoder.tokenizer.save_pretrained(str(to))


def _check_weights(adapter: Adapter, weights: str | None) -> None:
    trained_on = Store(adapter.folder).weights()
    if trained_on is not None and weights is not None and trained_on != weights:
        name = adapter.recipe.model.name
        raise UserError.at(f"model {name}", "its weights are not those that the adapter was trained on.")
