"""Find trained adapters in an output folder, check their files, and load them on the base they were trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from adapterzoo.data_row import BadRowError, DataRow, EmptyRowError, Turn
from adapterzoo.errors import AdapterzooError, UserError, did_you_mean, failure_reason
from adapterzoo.files import special_file
from adapterzoo.formats import FORMATS, Conversation
from adapterzoo.methods.calls import load_adapter
from adapterzoo.methods.contract import QUANTIZATIONS, TASK_TYPES, Context
from adapterzoo.methods.registry import registry
from adapterzoo.recipe import document
from adapterzoo.recipe.schema import DataSection, Recipe
from adapterzoo.results.intact import changed_files
from adapterzoo.results.result import Result, read_results
from adapterzoo.results.store import ADAPTER, RECIPE, Store
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


def find_adapter(folder: Path, method: str, seed: int | None = None, trust_remote_code: bool = False) -> Adapter:
    """Return the adapter with this label or of this method; without a seed, the first one in the results.

    Args:
        folder: output folder of a run, which may come from a stranger.
        method: label or name of the method.
        seed: seed of the adapter.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.

    Raises:
        UserError: the folder has no such adapter, or several, or its training failed, or its method is not installed,
            or the recipe is damaged, or asks to run a model's own code without permission.
    """
    stored = read_results(folder)
    results = [result for _, result in stored.cells if result.method is not None]
    matching = [result for result in results if result.label == method] or [r for r in results if r.method == method]
    damaged = [problem for cell, problem in stored.damaged.items() if cell.parent.name == method]
    if damaged and not matching:
        raise UserError(*damaged)
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
    if (name := chosen.method or "") not in registry():
        hint = f"The run had it from {chosen.plugin}." if chosen.plugin else registry().hint(name)
        raise UserError.at(f"--method {method}", f"its method '{name}' is not installed.", hint)
    if chosen.quantization not in QUANTIZATIONS:
        what = f"was trained on the quantization '{chosen.quantization}', which there is not."
        raise UserError.at(f"--method {method}", what, f"There are: {', '.join(QUANTIZATIONS)}.")
    try:
        recipe = Recipe.model_validate(document.read(folder / RECIPE).data)
    except ValidationError:
        raise UserError.at(str(folder / RECIPE), "is not what the run wrote.", "Run the recipe again.") from None
    if recipe.model.trust_remote_code and not trust_remote_code:
        what = f"says that the code that comes with the model {recipe.model.name} is run."
        raise UserError.at(str(folder / RECIPE), what, "If you trust its authors, give --trust-remote-code.")
    return Adapter(folder, recipe, chosen)


def require_causal(adapter: Adapter) -> None:
    """Raise UserError if an adapter's task does not train a causal language model."""
    name = adapter.recipe.task.name
    if name not in tasks() or tasks()[name].task_type != CAUSAL:
        what = f"its adapters are of the task {name}, with which generate and merge do not work yet."
        raise UserError.at(str(adapter.folder), what, "Load the adapter with PEFT.")


@contextmanager
def ready_model(
    adapter: Adapter, quantization: str, say: Say, questions: Sequence[DataRow] = ()
) -> Iterator[tuple[nn.Module, Encoder]]:
    """Yield the base with the adapter on it, ready to answer, and the encoder that turns questions into tokens.

    The arguments and errors are those of :func:`load_base`.
    """
    base, encoder = load_base(adapter, quantization, say, questions)
    with base.borrow() as model:
        yield apply_adapter(adapter, model, quantization), encoder


def load_base(adapter: Adapter, quantization: str, say: Say, questions: Sequence[DataRow] = ()) -> tuple[Base, Encoder]:
    """Load the base that an adapter was trained on, and the encoder that turns questions into tokens.

    Args:
        adapter: the adapter.
        quantization: the quantization of the base.
        say: is called with a message before each step that takes long.
        questions: questions that will be asked.

    Raises:
        UserError: the base cannot be loaded, or is not the one of the training, the adapter's files are damaged, or a
            question is longer than the model can read.
    """
    from adapterzoo.model import base, loading
    from adapterzoo.model import files as model_files
    from adapterzoo.tokens.encode import Encoder, load_tokenizer

    require_causal(adapter)
    _check_files(adapter, say)
    model = adapter.recipe.model
    location = model_files.locate(model.name, say)
    config = loading.load_config(model, location)
    _check_model(adapter, model_files.fingerprint(location, config))
    # Load the tokenizer saved with the adapter: it has the chat template and the padding token of the training.
    try:
        saved = model.model_copy(update={"revision": None, "padding_token": None})
        tokenizer = load_tokenizer(saved, str(adapter.path))
    except UserError as error:
        raise UserError.at(str(adapter.path), f"its tokenizer {error.problems[0].what}", TRAIN_AGAIN) from None
    data = adapter.recipe.data
    if data.chat_template not in ("auto", "plain"):
        data = data.model_copy(update={"chat_template": "auto"})
    encoder = Encoder(tokenizer, data)
    _check_questions(encoder, questions, getattr(config, "max_position_embeddings", None))
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
    except Exception as error:  # damaged files may raise any error
        raise UserError.at(str(adapter.path), f"cannot be loaded: {failure_reason(error)}.", TRAIN_AGAIN) from None
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


def _check_questions(encoder: Encoder, questions: Sequence[DataRow], limit: int | None) -> None:
    """Raise UserError if a question leaves no room for an answer in what the model can read."""
    for number, row in enumerate(questions, start=1):
        if limit is not None and (tokens := len(encoder.prompt(row))) >= limit:
            what = f"question {number} has {tokens:,} tokens, and the model can read {limit:,}."
            raise UserError.at("--prompt", what, "Shorten it.")


def _check_files(adapter: Adapter, say: Say) -> None:
    """Raise UserError if a file of the adapter is not what the run wrote."""
    if not adapter.result.adapter_files:
        say("an older adapterzoo wrote this result without digests of the adapter's files, so they are not checked")
    if not adapter.path.is_dir():
        raise UserError.at(str(adapter.path), "does not exist any more.", TRAIN_AGAIN)
    if special := special_file(adapter.path):
        raise UserError.at(str(special), "is not an ordinary file.", TRAIN_AGAIN)
    if changed := changed_files(adapter.path.parent, adapter.result):
        where = str(adapter.path.parent / changed[0])
        more = f", nor are {len(changed) - 1} more files" if len(changed) > 1 else ""
        raise UserError.at(where, f"is not what the run wrote{more}.", TRAIN_AGAIN)


def _check_model(adapter: Adapter, digest: str | None) -> None:
    """Raise UserError if the digest of the model's files is not that of the model at training time."""
    trained_on = adapter.result.fingerprints.get("weights") or Store(adapter.folder).weights()
    if trained_on is not None and digest is not None and trained_on != digest:
        name = adapter.recipe.model.name
        what = "its files are not those that the adapter was trained on."
        raise UserError.at(f"model {name}", what, "Restore them, or train the adapter again.")
