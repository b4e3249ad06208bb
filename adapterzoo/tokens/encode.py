"""From rows to tokens: what is learned of each, its end token, and what has to be cut."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from adapterzoo.data.split import Splits
from adapterzoo.data_row import SPLIT_NAMES, DataRow
from adapterzoo.errors import UserError
from adapterzoo.model.padding import add_padding_token, padding_token
from adapterzoo.recipe.schema import DataSection, ModelSection
from adapterzoo.tokens import shorten
from adapterzoo.tokens.batches import SealedRow, Tokens, pad_batch, seal
from adapterzoo.tokens.chat import Chat, Segment
from adapterzoo.tokens.packing import pack, pack_batch
from adapterzoo.tokens.shared_prefix import SharedPrefix


@dataclass(frozen=True, slots=True)
class Example:
    """A row as token ids. The completion ends with the end token, unless it was cut."""

    row: DataRow
    prompt: list[int]
    completion: list[int]
    learned: list[bool]
    """for each token of prompt and completion: whether it is in the loss; never the first, which nothing predicts"""

    @property
    def tokens(self) -> Tokens:
        """For a batch."""
        return [*self.prompt, *self.completion], self.learned


@dataclass(frozen=True)
class Encoded:
    """Everything that training and evaluation see; the same object for every cell."""

    tokenizer: Any
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    end_ids: list[int]
    """tokens that end an answer"""
    pad_id: int
    """never an end token, where the tokenizer has any other"""
    fingerprint: str
    said: list[str] = field(default_factory=list)
    """what was dropped and cut on the way"""
    packs: list[list[Tokens]] = field(default_factory=list)
    """the training rows, several in one; none where rows are not packed"""

    @property
    def training_rows(self) -> Sequence[Any]:
        """What one row of a training batch is made of: an example, or a pack of them."""
        return self.packs or self.train

    def collate(self, rows: Sequence[Any], prefix: SharedPrefix | None = None) -> dict[str, Any]:
        """Return a batch of such rows; with ``prefix`` in one sequence where that costs less."""
        if self.packs:
            return pack_batch(rows, self.pad_id)
        tokens = [row.tokens for row in rows]
        return pad_batch(tokens, self.pad_id) if prefix is None else prefix.batch(tokens, self.pad_id)

    def sealed_rows(self) -> list[SealedRow]:
        """Return copies of the training rows that can be given to methods."""
        return [seal(example.tokens) for example in self.train]


class Encoder:
    """Turns rows into examples for one model."""

    def __init__(self, tokenizer: Any, data: DataSection, say: Callable[[str], None] = lambda message: None) -> None:
        self.tokenizer = tokenizer
        self.data = data
        self.say = say
        if tokenizer.eos_token_id is None:
            raise UserError.at("model", "its tokenizer has no end token.", "Answers could never end.")
        self.chat = Chat(tokenizer, data, say)
        self.pad_id = padding_token(tokenizer)
        tokenizer.pad_token_id = self.pad_id
        self.vocabulary = len(tokenizer)
        self._shortened = 0
        self.specials = set(tokenizer.all_special_ids)
        # What is shown or said in front of every question is the same text each time.
        self._tokenize = lru_cache(maxsize=1024)(self._tokens_of)
        self.begins = _first_tokens(tokenizer)
        """the ids that the tokenizer puts in front of a text"""

    def prompt(self, row: DataRow, shots: Sequence[DataRow] = ()) -> list[int]:
        """The token ids before the answer; ``shots`` are examples shown first, with their answers."""
        segments = self.chat.segments(row, shots)
        return self._ids([*segments[:-1], Segment("", answer=True)], row.raw)[0]

    def encode(self, row: DataRow) -> Example | None:
        """A row, cut to ``max_length`` tokens; None where nothing would be left to learn.

        Raises:
            UserError: the chat template cannot write its turns.
        """
        example = self.example(row)
        longer = len(example.learned) - self.data.max_length
        if longer <= 0:
            return example
        shortened = shorten.shorten(self, example, longer)
        self._shortened += shortened is not None
        return shortened

    def encode_splits(self, splits: Splits) -> Encoded:
        """All rows; those that ``max_length`` leaves nothing of are dropped, and said.

        Raises:
            UserError: nothing is left of a split.
        """
        said: list[str] = []
        parts = {name: self._part(name, getattr(splits, name), said) for name in SPLIT_NAMES}
        for line in said:
            self.say(line)
        return self.collect(parts, said, splits.fingerprint)

    def collect(self, parts: dict[str, list[Example]], said: list[str], fingerprint: str) -> Encoded:
        """The examples of all parts, with what holds for all of them."""
        ends = {example.completion[-1] for example in parts["train"]} & self.specials
        packing = self.data.packing
        return Encoded(
            self.tokenizer,
            **parts,
            end_ids=sorted(ends | {self.tokenizer.eos_token_id}),
            pad_id=self.pad_id,
            fingerprint=fingerprint,
            said=said,
            packs=pack([example.tokens for example in parts["train"]], self.data.max_length) if packing else [],
        )

    def _part(self, name: str, rows: Sequence[DataRow], said: list[str]) -> list[Example]:
        kept, cut, odd = [], 0, []
        self._shortened = 0
        self.chat.left_out.clear()
        limit = f"max_length = {self.data.max_length}"
        for row in rows:
            example = self.encode(row)
            if not row.raw and any(self._names_a_special(turn.content) for turn in row.turns):
                odd.append(row.place)
            if example is None or not any(example.learned):
                continue
            kept.append(example)
            cut += example.completion[-1] not in self.specials
        if rows and not kept:
            longest = max(len(self.example(row).prompt) for row in rows)
            raise UserError.at(
                "data.max_length",
                f"{limit} leaves nothing to learn in all {len(rows)} rows of {name}.",
                f"Prompts alone reach {longest} tokens: raise it.",
            )
        if dropped := len(rows) - len(kept):
            said.append(
                f"data: {dropped} of {len(rows)} rows of {name} dropped: {limit} leaves no room for their answer"
            )
        if cut:
            said.append(f"data: {cut} of {len(rows)} answers of {name} are cut short by {limit}, and do not end")
        if questions := self._shortened - cut:
            said.append(f"data: {questions} of {len(rows)} questions of {name} are cut to fit {limit}")
        if odd:
            where = f" (first: {odd[0]})" if odd[0] else ""
            what = "hold the text of a special token, which the model will read as that token"
            said.append(f"data: {len(odd)} of {len(rows)} rows of {name} {what}{where}")
        if left_out := list(dict.fromkeys(self.chat.left_out)):
            what = "the chat template leaves out or changes part of what is asked"
            where = f" (first: {left_out[0]})" if left_out[0] else ""
            said.append(f"data: {len(left_out)} of {len(rows)} rows of {name}: {what}{where}")
        return kept

    def example(self, row: DataRow) -> Example:
        """A row as it is, however long.

        Raises:
            UserError: the chat template cannot write its turns.
        """
        prompt, completion, learned = self._ids(self.chat.segments(row), row.raw)
        return Example(row, prompt, completion, learned)

    def _ids(self, segments: Sequence[Segment], raw: bool) -> tuple[list[int], list[int], list[bool]]:
        """The ids before the last segment, its own, and for each of both whether it is learned.

        Every stretch is tokenized behind the one before it, whose ids stay what they are alone: when the model
        answers, that is all there will be.
        """
        # A chat template writes its own first token: the tokenizer's would be a second one.
        ids: list[int] = list(self.begins) if raw or self.chat.plain else []
        learned = [self.data.loss_on == "all"] * len(ids)
        begins = 0
        before = ""
        for segment in segments:
            begins = len(ids)
            own = [*self._behind(before, segment.text), *([self.tokenizer.eos_token_id] if segment.ends else [])]
            wanted = self.data.loss_on == "all" or (segment.answer and self.data.loss_on == "assistant")
            ids += own
            learned += [wanted] * len(own)
            before = "" if segment.ends else segment.text
        if self.data.loss_on == "completion":
            learned[begins:] = [True] * (len(ids) - begins)
        if learned:
            learned[0] = False
        return ids[:begins], ids[begins:], learned

    def size(self, text: str) -> int:
        """How many tokens a stretch of text is by itself."""
        return len(self._tokenize(text))

    def _behind(self, before: str, text: str) -> tuple[int, ...]:
        if not text:
            return ()
        first, both = self._tokenize(before), self._tokenize(before + text)
        # Where a token would reach across, the text is tokenized by itself, as it is when the model answers.
        return both[len(first) :] if both[: len(first)] == first else self._tokenize(text)

    def _tokens_of(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    def _names_a_special(self, text: str) -> bool:
        return any(token in text for token in self.tokenizer.all_special_tokens)


def load_tokenizer(model: ModelSection, location: str) -> Any:
    """The model's tokenizer.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(
            location, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError, ImportError) as error:
        from adapterzoo.model.loading import loading_error

        raise loading_error(model, error) from None
    if model.padding_token is not None:
        add_padding_token(tokenizer, model.padding_token)
    return tokenizer


def _first_tokens(tokenizer: Any) -> list[int]:
    """What the tokenizer puts in front of a text, if anything."""
    bare, whole = (tokenizer("x", add_special_tokens=added)["input_ids"] for added in (False, True))
    first: list[int] = whole[: next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)]
    return first
