"""Load trained adapters on the base model that they were trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from adapterzoo.adapters.finding import TRAIN_AGAIN, Adapter, Say, check_files
from adapterzoo.data_row import BadRowError, DataRow, EmptyRowError, Turn
from adapterzoo.errors import AdapterzooError, UserError, failure_reason
from adapterzoo.formats import FORMATS, Conversation
from adapterzoo.methods.calls import load_adapter
from adapterzoo.methods.contract import TASK_TYPES, Context
from adapterzoo.methods.registry import registry
from adapterzoo.recipe.schema import DataSection
from adapterzoo.results.store import Store
from adapterzoo.tasks.examples import ModelForm
from adapterzoo.tasks.registry import tasks

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.model.base import Base
    from adapterzoo.tokens.encode import Encoder
    from adapterzoo.tokens.encoded import Encoded

CAUSAL = TASK_TYPES[0]


def require_causal(adapter: Adapter) -> None:
    """Raise UserError if an adapter's task does not train a causal language model."""
    name = adapter.recipe.task.name
    if name not in tasks() or tasks()[name].task_type != CAUSAL:
        what = f"its adapters are of the task {name}, with which generate, merge and push do not work yet."
        raise UserError.at(str(adapter.folder), what, "Load the adapter with PEFT.")


def load_base(
    adapter: Adapter,
    quantization: str,
    say: Say,
    questions: Sequence[DataRow] = (),
    loaded: Base | None = None,
) -> tuple[Base, Encoder]:
    """Load the base that an adapter was trained on, and the encoder that turns questions into tokens.

    Args:
        adapter: the adapter.
        quantization: the quantization of the base.
        say: is called with a message before each step that takes long.
        questions: questions that will be asked.
        loaded: the base, if it was loaded for another adapter of the same run.

    Raises:
        UserError: the base cannot be loaded, or is not the one of the training, the adapter's files are damaged, or a
            question is longer than the model can read.
    """
    from adapterzoo.model import base
    from adapterzoo.model import files as model_files
    from adapterzoo.model.config import load_config

    require_causal(adapter)
    check_files(adapter, say)
    model = adapter.recipe.model
    location = model_files.locate(model.name, say)
    config = load_config(model, location)
    if loaded is None:
        check_model(adapter, model_files.fingerprint(location, config))
    encoder = saved_encoder(adapter)
    _check_questions(encoder, questions, getattr(config, "max_position_embeddings", None))
    form = ModelForm(vocabulary=encoder.vocabulary)
    if loaded is None:
        loaded = base.load(model, location, quantization, adapter.recipe.data.max_length, form)
    return loaded, encoder


def saved_encoder(adapter: Adapter) -> Encoder:
    """Return the encoder with the tokenizer that was saved with an adapter; errors as in :func:`saved_tokenizer`."""
    from adapterzoo.tokens.encode import Encoder

    tokenizer = saved_tokenizer(adapter)
    data = adapter.recipe.data
    if data.chat_template not in ("auto", "plain"):
        data = data.model_copy(update={"chat_template": "auto"})
    return Encoder(tokenizer, data)


def answer_tokens(encoder: Encoder, row: DataRow) -> Encoded:
    """Return what has the tokens that end and pad an answer; the encoder learns them from a row."""
    return encoder.collect({"train": [encoder.example(row)], "validation": [], "test": []}, [], "")


def saved_tokenizer(adapter: Adapter) -> Any:
    """Return the tokenizer saved with an adapter, which has the chat template and the padding token of the training.

    Raises:
        UserError: it cannot be loaded.
    """
    from adapterzoo.tokens.tokenizer import load_tokenizer

    saved = adapter.recipe.model.model_copy(update={"revision": None, "padding_token": None})
    try:
        return load_tokenizer(saved, str(adapter.path))
    except UserError as error:
        raise UserError.at(str(adapter.path), f"its tokenizer {error.problems[0].what}", TRAIN_AGAIN) from None


def apply_adapter(adapter: Adapter, model: nn.Module, quantization: str) -> nn.Module:
    """Put an adapter on its base, which is loaded with a quantization, and return the model that answers.

    Raises:
        UserError: the adapter does not fit the base: weights are missing, or they are those of another method.
    """
    from adapterzoo.model.head import load_head

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
        load_head(model, adapter.path)
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


def recorded_prompt(encoder: Encoder, adapter: Adapter, prompt: str) -> list[int]:
    """Return the token ids of a test example's prompt as the run has recorded it: with the recipe's template in it.

    Raises:
        UserError: the recipe's template needs more columns than a question.
    """
    row = question_row(adapter.recipe.data, prompt)
    turns = tuple(Turn(role, prompt) if role == "user" else Turn(role, content) for role, content in row.turns)
    return encoder.prompt(replace(row, turns=turns))


def _check_questions(encoder: Encoder, questions: Sequence[DataRow], limit: int | None) -> None:
    """Raise UserError if a question leaves no room for an answer in what the model can read."""
    for number, row in enumerate(questions, start=1):
        if limit is not None and (tokens := len(encoder.prompt(row))) >= limit:
            what = f"question {number} has {tokens:,} tokens, and the model can read {limit:,}."
            raise UserError.at("--prompt", what, "Shorten it.")


def check_model(adapter: Adapter, digest: str | None) -> None:
    """Raise UserError if the digest of the model's files is not that of the model at training time."""
    trained_on = adapter.result.fingerprints.get("weights") or Store(adapter.folder).weights()
    if trained_on is not None and digest is not None and trained_on != digest:
        name = adapter.recipe.model.name
        what = "its files are not those that the adapter was trained on."
        raise UserError.at(f"model {name}", what, "Restore them, or train the adapter again.")
