"""Ask trained adapters: several of them the same questions, or one of them in a conversation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.adapters.finding import Adapter, Say, find_adapter, find_adapters, first_of_each_label
from adapterzoo.adapters.loading import answer_tokens, apply_adapter, load_base, question_row, require_causal
from adapterzoo.data_row import Turn
from adapterzoo.errors import UserError
from adapterzoo.prepare.plan import BASE_LABEL

if TYPE_CHECKING:
    from torch import nn

    from adapterzoo.model.base import Base
    from adapterzoo.tokens.encode import Encoder
    from adapterzoo.tokens.encoded import Encoded

BATCH_SIZE = 8


@dataclass(frozen=True)
class Answerer:
    """A model that can be asked: an adapter on its base model, or the untouched base model."""

    label: str
    """label of the adapter, or of the untouched base model"""
    quantization: str
    """quantization of the base model"""
    adapter: Adapter
    """the adapter; for the untouched base model, one that gives the tokenizer and the recipe"""
    untouched: bool = False


def find_answerers(
    folder: Path,
    methods: Sequence[str] = (),
    seed: int | None = None,
    *,
    every: bool = False,
    base: bool = False,
    trust_remote_code: bool = False,
    say: Say = lambda message: None,
) -> list[Answerer]:
    """Return the models of an output folder that are to be asked: one adapter for each label, and the base model.

    Args:
        folder: output folder of a run, which may come from a stranger.
        methods: labels or names of methods.
        seed: seed of the adapters; by default the first of each label.
        every: whether to ask the base model and, without ``methods``, all adapters.
        base: whether to ask the untouched base model.
        trust_remote_code: whether the model's own code may be run if the recipe in the folder asks for it.
        say: is called with a message about each cell that has no adapter.

    Raises:
        UserError: there are no such adapters, or they cannot be asked.
    """
    if methods:
        chosen = [find_adapter(folder, method, seed, trust_remote_code) for method in dict.fromkeys(methods)]
    else:
        found = find_adapters(folder, (), () if seed is None else (seed,), trust_remote_code, say)
        chosen = first_of_each_label(found)
    require_causal(chosen[0])
    own = chosen[0].recipe.model.quantization
    untouched = [Answerer(BASE_LABEL, own, chosen[0], untouched=True)] if base or every else []
    if not (methods or every):
        return untouched
    return [*untouched, *(Answerer(adapter.result.label, adapter.result.quantization, adapter) for adapter in chosen)]


def ask(
    answerers: Sequence[Answerer], prompts: Sequence[str], max_new_tokens: int, say: Say = lambda message: None
) -> dict[str, list[str]]:
    """Return label -> the answer to each prompt. The base model is loaded once for each quantization.

    Args:
        answerers: the models; all are of one output folder.
        prompts: the questions.
        max_new_tokens: largest number of tokens of an answer.
        say: is called with a message before each step that takes long.

    Raises:
        UserError: a base model cannot be loaded or has changed, an adapter is damaged, or a question is too long.
    """
    from adapterzoo.evaluation.generation import generate

    answers: dict[str, list[str]] = {}
    for quantization in dict.fromkeys(answerer.quantization for answerer in answerers):
        group = [answerer for answerer in answerers if answerer.quantization == quantization]
        for answerer, ready in _ready(group, prompts, say):
            answers[answerer.label] = generate(
                ready.model, ready.encoded, [ready.prompt(text) for text in prompts], BATCH_SIZE, max_new_tokens
            )
    return {answerer.label: answers[answerer.label] for answerer in answerers}


@dataclass(frozen=True)
class Ready:
    """A loaded model that answers, and what turns questions into tokens."""

    model: nn.Module
    encoder: Encoder
    encoded: Encoded
    """gives the end tokens and the padding token"""
    adapter: Adapter

    @classmethod
    def of(cls, model: nn.Module, encoder: Encoder, adapter: Adapter) -> Ready:
        """Return a model ready to answer like an adapter."""
        return cls(model, encoder, answer_tokens(encoder, question_row(adapter.recipe.data, "?")), adapter)

    def prompt(self, text: str) -> list[int]:
        """Return the token ids of a question."""
        return self.encoder.prompt(question_row(self.adapter.recipe.data, text))


def _ready(answerers: Sequence[Answerer], prompts: Sequence[str], say: Say) -> Iterator[tuple[Answerer, Ready]]:
    """Yield each of some answerers with the same quantization, ready to answer."""
    base: Base | None = None
    for answerer in answerers:
        adapter = answerer.adapter
        rows = [question_row(adapter.recipe.data, text) for text in prompts]
        base, encoder = load_base(adapter, answerer.quantization, say, rows, base)
        with base.borrow() as model:
            ready = model.eval() if answerer.untouched else apply_adapter(adapter, model, answerer.quantization)
            yield answerer, Ready.of(ready, encoder, adapter)


@dataclass
class Conversation:
    """A conversation with one model; earlier questions and answers are part of each prompt."""

    ready: Ready
    max_new_tokens: int
    history: list[Turn] = field(default_factory=list)
    forgotten: bool = False
    """whether the last answer was given without the oldest turns, because the model cannot read more"""

    @property
    def remembers(self) -> bool:
        """Whether earlier turns are part of a prompt; plain text is only continued."""
        return self.ready.adapter.recipe.data.format != "text"

    def ask(self, text: str, show: Callable[[str], None]) -> str:
        """Return the answer to the next question, and keep both for the questions after it.

        Args:
            text: the question.
            show: is called with each piece of the answer as soon as it is known.

        Raises:
            UserError: the question alone is longer than the model can read.
        """
        from adapterzoo.evaluation.streaming import stream

        row = question_row(self.ready.adapter.recipe.data, text)
        ids = self._prompt(row)
        answer = stream(self.ready.model, self.ready.encoded, ids, self.max_new_tokens, show)
        if self.remembers:
            self.history += [*row.turns[:-1], Turn("assistant", answer)]
        return answer

    def _prompt(self, row: Any) -> list[int]:
        """Return the token ids of a question after as much of the conversation as the model can read."""
        from adapterzoo.evaluation.generation import readable

        limit = readable(self.ready.model)
        self.forgotten = False
        while True:
            ids = self.ready.encoder.prompt(replace(row, turns=(*self.history, *row.turns)))
            if len(ids) < limit:
                return ids
            if not self.history:
                what = f"has {len(ids):,} tokens, and the model can read {limit:,}."
                raise UserError.at("the question", what, "Shorten it.")
            later = [place for place, turn in enumerate(self.history) if turn.role == "user" and place > 0]
            self.history = self.history[later[0] :] if later else []
            self.forgotten = True


@contextmanager
def conversation(answerer: Answerer, max_new_tokens: int, say: Say) -> Iterator[Conversation]:
    """Load a model, and yield a conversation with it.

    Args:
        answerer: the model.
        max_new_tokens: largest number of tokens of an answer.
        say: is called with a message before each step that takes long.

    Raises:
        UserError: the base model cannot be loaded or has changed, or the adapter is damaged.
    """
    for _, ready in _ready([answerer], ["?"], say):
        yield Conversation(ready, max_new_tokens)
