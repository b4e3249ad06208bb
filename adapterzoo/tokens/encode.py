"""Turn rows into token ids, mark the learned ones, and cut or drop rows that are too long."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from adapterzoo.data_row import SPLIT_NAMES, DataRow, Places
from adapterzoo.errors import UserError
from adapterzoo.model.padding import choose_padding_id
from adapterzoo.tasks.contract import DataSettings, Rows
from adapterzoo.terminal import Progress
from adapterzoo.tokens import shorten
from adapterzoo.tokens.batches import Tokens
from adapterzoo.tokens.chat import Chat, Segment
from adapterzoo.tokens.encoded import Encoded, Example
from adapterzoo.tokens.packing import pack, packed_positions
from adapterzoo.tokens.stored_examples import StoredExamples, StoredPacks
from adapterzoo.tokens.template import with_template

MAX_CACHED_CHARACTERS = 10_000  # the tokens of a thousand longer texts would take too much memory


class Encoder:
    """Turns rows into examples for one model."""

    def __init__(self, tokenizer: Any, data: DataSettings, say: Callable[[str], None] = lambda message: None) -> None:
        self.data = data
        self.say = say
        if tokenizer.eos_token_id is None:
            raise UserError.at("model", "its tokenizer has no end token: no answer would end.", "Choose another model.")
        tokenizer = self.tokenizer = with_template(tokenizer, data)
        self.chat = Chat(tokenizer, data, say)
        self.pad_id = choose_padding_id(tokenizer)
        tokenizer.pad_token_id = self.pad_id
        self.vocabulary = len(tokenizer)
        self._shortened = 0
        self.special_ids = set(tokenizer.all_special_ids)
        # Cache the tokens of texts, because all rows begin with the same system message and the same shots.
        self._cached_tokens = lru_cache(maxsize=1024)(self._tokens_of)
        self.start_ids = _start_ids(tokenizer)
        """ids of the tokens that the tokenizer puts in front of a text"""

    def prompt(self, row: DataRow, shots: Sequence[DataRow] = ()) -> list[int]:
        """Return the token ids before the answer; ``shots`` are examples that are shown first, with their answers."""
        segments = self.chat.segments(row, shots)
        return self._ids([*segments[:-1], Segment("", is_answer=True)], row.raw)[0]

    def encode(self, row: DataRow) -> Example | None:
        """Return a row as token ids, cut to ``max_length`` tokens; None if nothing would be left to learn.

        Raises:
            UserError: the chat template cannot write its turns.
        """
        example = self.example(row)
        excess = len(example.learned) - self.data.max_length
        if excess <= 0:
            return example
        shortened = shorten.shorten(self, example, excess)
        self._shortened += shortened is not None
        return shortened

    def encode_splits(self, splits: Rows) -> Encoded:
        """Return the examples of all splits, and tell the user how many rows were dropped and cut.

        Raises:
            UserError: a split has no row with tokens to learn.
        """
        examples: dict[str, list[Example]] = {name: [] for name in SPLIT_NAMES}
        notes = self.encode_rows(splits, lambda split, number, example: examples[split].append(example))
        return self.collect(examples, notes, splits.fingerprint)

    def encode_rows(self, splits: Rows, keep: Callable[[str, int, Example], None]) -> list[str]:
        """Encode all rows, and tell the user how many were dropped and cut; return what was told.

        Args:
            splits: the rows.
            keep: is called with each example that is not dropped, its split, and the position of its row there.

        Raises:
            UserError: a split has no row with tokens to learn.
        """
        notes = [note for name in SPLIT_NAMES for note in self._encode_split(name, getattr(splits, name), keep)]
        for note in notes:
            self.say(note)
        return notes

    def collect(self, examples: Mapping[str, Sequence[Example]], notes: list[str], fingerprint: str) -> Encoded:
        """Return the examples of all splits together with the end tokens, the padding token and the packs."""
        # A run that only measures may have no training rows.
        learned = examples["train"] or examples["test"]
        ends = learned.ends() if isinstance(learned, StoredExamples) else {row.completion[-1] for row in learned}
        return Encoded(
            tokenizer=self.tokenizer,
            train=examples["train"],
            validation=examples["validation"],
            test=examples["test"],
            end_ids=sorted((ends & self.special_ids) | {self.tokenizer.eos_token_id}),
            answer_header=self.chat.answer_header,
            pad_id=self.pad_id,
            fingerprint=fingerprint,
            notes=notes,
            packs=self._packs(examples["train"]) if self.data.packing else [],
        )

    def _packs(self, examples: Sequence[Example]) -> Sequence[list[Tokens]]:
        if isinstance(examples, StoredExamples):
            return StoredPacks(examples, packed_positions(examples.sizes.tolist(), self.data.max_length))
        return pack([example.tokens for example in examples], self.data.max_length)

    def _encode_split(
        self, name: str, rows: Sequence[DataRow], keep: Callable[[str, int, Example], None]
    ) -> Iterator[str]:
        """Encode the rows of a split, and yield messages about them."""
        kept, cut = 0, 0
        self._shortened = 0
        self.chat.incomplete = Places()
        limit = f"max_length = {self.data.max_length}"
        progress = Progress(f"rows of {name} tokenized", len(rows))
        for number, row in enumerate(rows):
            progress.add()
            example = self.encode(row)
            if example is None or not any(example.learned):
                continue
            keep(name, number, example)
            kept += 1
            cut += example.completion[-1] not in self.special_ids
        if rows and not kept:
            longest = max(len(self.example(row).prompt) for row in rows)
            raise UserError.at(
                "data.max_length",
                f"{limit} leaves nothing to learn in all {len(rows)} rows of {name}.",
                f"The longest prompt alone has {longest} tokens: raise max_length.",
            )
        if dropped := len(rows) - kept:
            yield f"data: {dropped} of {len(rows)} rows of {name} dropped: {limit} leaves no room for their answer"
        if cut:
            yield f"data: {cut} of {len(rows)} answers of {name} are cut short by {limit}, and have no end token"
        if questions := self._shortened - cut:
            yield f"data: {questions} of {len(rows)} questions of {name} are cut to fit {limit}"
        yield from self.notes_on_texts(name, rows)

    def notes_on_texts(self, split: str, rows: Sequence[DataRow]) -> Iterator[str]:
        """Yield messages about the rows of a split that the model will read differently than a person does.

        The turns that the chat template left out are those since ``chat.incomplete`` was made.
        """
        special = Places()
        for row in rows:
            if not row.raw and any(self._has_special_text(turn.content) for turn in row.turns):
                special.add(row.place)
        found = {
            " contain the text of a special token, which the model will read as that token": special,
            ": the chat template leaves out or changes part of what is asked": self.chat.incomplete,
        }
        for what, places in found.items():
            if places.count:
                where = f" (first: {places.first})" if places.first else ""
                yield f"data: {places.count} of {len(rows)} rows of {split}{what}{where}"

    def example(self, row: DataRow) -> Example:
        """Return a row as token ids, also if it is too long.

        Raises:
            UserError: the chat template cannot write its turns.
        """
        prompt, completion, learned = self._ids(self.chat.segments(row), row.raw)
        return Example(row, prompt, completion, learned)

    def _ids(self, segments: Sequence[Segment], raw: bool) -> tuple[list[int], list[int], list[bool]]:
        """Return the ids before the last segment, the ids of that segment, and for each id whether it is learned.

        A segment never changes the ids of the text before it, because the model gets that text alone when it answers.
        """
        # A chat template writes its own start token, so the tokenizer must not add a second one.
        ids: list[int] = list(self.start_ids) if raw or self.chat.plain else []
        learned = [self.data.loss_on == "all"] * len(ids)
        start = 0
        before = ""
        for segment in segments:
            start = len(ids)
            end = [self.tokenizer.eos_token_id] if segment.adds_end else []
            own = [*self._tokenize_after(before, segment.text), *end]
            wanted = self.data.loss_on == "all" or (segment.is_answer and self.data.loss_on == "assistant")
            ids += own
            learned += [wanted] * len(own)
            before = "" if segment.adds_end else segment.text
        if self.data.loss_on == "completion":
            learned[start:] = [True] * (len(ids) - start)
        if learned:
            learned[0] = False
        return ids[:start], ids[start:], learned

    def token_count(self, text: str) -> int:
        """Return the number of tokens of a text that is tokenized alone."""
        return len(self._tokenize(text))

    def _tokenize_after(self, before: str, text: str) -> tuple[int, ...]:
        """Return the ids of a text that follows another one."""
        if not text:
            return ()
        first, both = self._tokenize(before), self._tokenize(before + text)
        # If a token would belong to both texts, tokenize the second text alone, as the model does when it answers.
        return both[len(first) :] if both[: len(first)] == first else self._tokenize(text)

    def _tokenize(self, text: str) -> tuple[int, ...]:
        return self._cached_tokens(text) if len(text) <= MAX_CACHED_CHARACTERS else self._tokens_of(text)

    def _tokens_of(self, text: str) -> tuple[int, ...]:
        return tuple(self.tokenizer(text, add_special_tokens=False)["input_ids"]) if text else ()

    def _has_special_text(self, text: str) -> bool:
        return any(token in text for token in self.tokenizer.all_special_tokens)


def _start_ids(tokenizer: Any) -> list[int]:
    """Return the ids that the tokenizer puts in front of a text, if there are any."""
    bare, whole = (tokenizer("x", add_special_tokens=add)["input_ids"] for add in (False, True))
    start: list[int] = whole[: next((n for n in range(len(whole)) if whole[n : n + len(bare)] == bare), 0)]
    return start
