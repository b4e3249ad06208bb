"""Find trained adapters in an output folder, check their files, and load them on the base they were trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from adapterzoo.data_row import BadRowError, DataRow, EmptyRowError, Turn
from adapterzoo.errors import AdapterzooError, UserError, did_you_mean
from adapterzoo.formats import FORMATS, Conversation
from adapterzoo.methods.calls import load_adapter
from adapterzoo.methods.contract import TASK_TYPES, Context
from adapterzoo.methods.registry import registry
from adapterzoo.recipe import document
from adapterzoo.recipe.schema import DataSection, Recipe
from adapterzoo.results.result import Result, read_results
from adapterzoo.results.store import ADAPTER, RECIPE, Store, changed_files
from adapterzoo.tasks.examples import ModelForm
from adapterzoo.tasks.registry import tasks

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.model.base import Base
    from adapterzoo.tokens.encode import Encoder

CAUSAL = TASK_TYPES[0]
Say = Callable[[str], None]
TRAIN_AGAIN = "Run the recipe again: it trains damaged adapters again."


@dataclass(frozen=True)
class Adapter:
    """One finished cell of an output folder."""

    folder: Path
    """output folder of the run"""
    recipe: Recipe
    """resolved recipe of the run"""
    result: Result
    """result of the cell"""

    @property
    def path(self) -> Path:
        """Return the folder with the adapter's weights and tokenizer."""
        return self.folder / self.result.label / f"seed-{self.result.seed}" / ADAPTER


def find_adapter(folder: Path, method: str, seed: int | None = None) -> Adapter:
    """Return the adapter with this label or of this method; without a seed, the first one in the results.

    Raises:
        UserError: the folder has no such adapter, or several, or its training failed, or the recipe is damaged.
    """
    results = [result for _, result in read_results(folder) if result.method is not None]
    matching = [result for result in results if result.label == method] or [r for r in results if r.method == method]
    if not matching:
        known = sorted({result.label for result in results})
        raise UserError.at(f"--method {method}", f"{folder} has no such adapter.", did_you_mean(method, known))
    if len({result.label for result in matching}) > 1:
        labels = ", ".join(sorted({result.label for result in matching}))
        raise UserError.at(f"--method {method}", "there are several such adapters.", f"Give one label: {labels}.")
    chosen = next((result for result in matching if seed is None or result.seed == seed), None)
    if chosen is None:
        seeds = ", ".join(str(result.seed) for result in matching)
        raise UserError.at(f"--seed {seed}", f"'{method}' was not trained with this seed.", f"Choose from: {seeds}.")
    if not chosen.ok:
        raise UserError.at(f"--method {method}", f"its training failed: {chosen.error}", "Run the recipe again.")
    try:
        recipe = Recipe.model_validate(document.read(folder / RECIPE).data)
    except ValidationError:
        raise UserError.at(str(folder / RECIPE), "is not what the run wrote.", "Run the recipe again.") from None
    return Adapter(folder, recipe, chosen)


def require_causal(adapter: Adapter) -> None:
    """Raise UserError if an adapter's task does not train a causal language model."""
    name = adapter.recipe.task.name
    if name not in tasks() or tasks()[name].task_type != CAUSAL:
        what = f"its adapters are of the task {name}, with which generate and merge do not work yet."
        raise UserError.at(str(adapter.folder), what, "Load the adapter with PEFT.")


@contextmanager
def ready_model(adapter: Adapter, quantization: str, say: Say) -> Iterator[tuple[nn.Module, Encoder]]:
    """Yield the base with the adapter on it, ready to answer, and the encoder that turns questions into tokens.

    Raises:
        UserError: the base cannot be loaded, or is not the one of the training, or the adapter's files are damaged.
    """
    base, encoder = load_base(adapter, quantization, say)
    with base.borrow() as model:
        yield apply_adapter(adapter, model, quantization), encoder


def load_base(adapter: Adapter, quantization: str, say: Say) -> tuple[Base, Encoder]:
    """Load the base that an adapter was trained on, and the encoder that turns questions into tokens.

    Raises:
        UserError: the base cannot be loaded, or is not the one of the training, or the adapter's files are damaged.
    """
    from adapterzoo.model import base, loading
    from adapterzoo.model import files as model_files
    from adapterzoo.tokens.encode import Encoder, load_tokenizer

    require_causal(adapter)
    _check_files(adapter, say)
    model = adapter.recipe.model
    location = model_files.locate(model.name, say)
    _check_model(adapter, model_files.fingerprint(location, loading.load_config(model, location)))
    # Load the tokenizer saved with the adapter: it has the chat template and the padding token of the training.
    tokenizer = load_tokenizer(model.model_copy(update={"revision": None, "padding_token": None}), str(adapter.path))
    data = adapter.recipe.data
    if data.chat_template not in ("auto", "plain"):
        data = data.model_copy(update={"chat_template": "auto"})
    encoder = Encoder(tokenizer, data)
    form = ModelForm(vocabulary=encoder.vocabulary)
    return base.load(model, location, quantization, data.max_length, form), encoder


def apply_adapter(adapter: Adapter, model: nn.Module, quantization: str) -> nn.Module:
    """Put an adapter on its base, which is loaded with a quantization, and return the model that answers.

    Raises:
        UserError: the adapter does not fit the base: weights are missing, or they are those of another method.
    """
    result, recipe = adapter.result, adapter.recipe
    method = registry()[result.method or ""]
    context = Context(
        quantization=quantization,
        total_steps=result.steps or 0,
        gradient_accumulation=recipe.train.gradient_accumulation,
        seed=result.seed,
        task_type=tasks()[recipe.task.name].task_type,
    )
    try:
        wrapped = load_adapter(method, model, adapter.path, method.options(**result.options), context)
    except ValidationError as error:
        options = ", ".join(sorted({str(details["loc"][0]) for details in error.errors()}))
        what = f"was trained with another version of {method.name}, whose options differ: {options}."
        raise UserError.at(str(adapter.path), what, "Install that version, or train the adapter again.") from None
    except AdapterzooError as error:
        raise UserError.at(str(adapter.path), f"cannot be loaded: {error}.", TRAIN_AGAIN) from None
    return wrapped.eval()


def question_row(data: DataSection, prompt: str) -> DataRow:
    """Return a question as a data row of the recipe's format, with ``?`` in place of the answer.

    Raises:
        UserError: the prompt is empty, or the recipe's template needs more columns than a question.
    """
    from adapterzoo.data.shape import Shaper

    form = FORMATS.get(data.format)  # a task may have formats of its own, whose prompts are turns of a conversation
    if data.format == "text":
        return DataRow((Turn("user", prompt), Turn("assistant", "?")), raw=True)
    if form is None or isinstance(form, Conversation):
        return DataRow((Turn("user", prompt), Turn("assistant", "?")))
    columns = [data.columns.get(name, name) for name in form.columns]
    try:
        shaper = Shaper(data.model_copy(update={"filter": {}, "drop_columns": []}), columns, "--prompt", lambda _: None)
    except UserError as error:
        what = "needs more than a question: " + "; ".join(problem.what for problem in error.problems)
        raise UserError.at("data.template", what, "Such an adapter cannot be asked with a prompt alone.") from None
    cells: dict[str, Any] = dict(zip(columns, (prompt, "?"), strict=True))
    try:
        return shaper.row("--prompt", cells)
    except EmptyRowError:
        raise UserError.at("--prompt", "is empty.") from None
    except BadRowError as error:
        raise UserError.at("--prompt", error.what, error.hint) from None


def _check_files(adapter: Adapter, say: Say) -> None:
    """Raise UserError if a file of the adapter is not what the run wrote."""
    if not adapter.result.adapter_files:
        say("an older adapterzoo wrote this result without digests of the adapter's files, so they are not checked")
    if not adapter.path.is_dir():
        raise UserError.at(str(adapter.path), "does not exist any more.", TRAIN_AGAIN)
    if changed := changed_files(adapter.path.parent, adapter.result):
        where = str(adapter.path.parent / changed[0])
        more = f", nor are {len(changed) - 1} more files" if len(changed) > 1 else ""
        raise UserError.at(where, f"is not what the run wrote{more}.", TRAIN_AGAIN)


def _check_model(adapter: Adapter, digest: str | None) -> None:
    """Raise UserError if the digest of the model's files is not that of the model at training time."""
    trained_on = Store(adapter.folder).weights()
    if trained_on is not None and digest is not None and trained_on != digest:
        name = adapter.recipe.model.name
        what = "its files are not those that the adapter was trained on."
        raise UserError.at(f"model {name}", what, "Restore them, or train the adapter again.")
