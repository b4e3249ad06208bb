"""From rows to tokens: the chat template, the completion with its end token, and padded batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo.data import Row, Splits
from adapterzoo.errors import UserError
from adapterzoo.recipe import DataSection, ModelSection

if TYPE_CHECKING:
    import torch

IGNORED = -100


@dataclass(frozen=True)
class Example:
    """A row as token ids. The completion ends with the end token, unless it was cut."""

    row: Row
    prompt: list[int]
    completion: list[int]


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

    def shuffled_batches(self, size: int, seed: int) -> Iterator[dict[str, Any]]:
        """The training rows once, in an order of the seed's, as batches."""
        order = random.Random(seed).sample(self.train, len(self.train))
        for start in range(0, len(order), size):
            yield pad_batch([(e.prompt, e.completion) for e in order[start : start + size]], self.pad_id)


class Encoder:
    """Turns rows into examples for one model."""

    def __init__(self, tokenizer: Any, data: DataSection, say: Callable[[str], None] = lambda message: None) -> None:
        self.tokenizer = tokenizer
        self.data = data
        self.say = say
        if tokenizer.eos_token_id is None:
            raise UserError.at("model", "its tokenizer has no end token.", "Answers could never end.")
        if not tokenizer.chat_template:
            say("model: its tokenizer has no chat template; prompt and answer are put on lines of their own")
        self.pad_id = _pad_id(tokenizer)
        tokenizer.pad_token_id = self.pad_id

    def prompt(self, row: Row, shots: Sequence[Row] = ()) -> list[int]:
        """The token ids before the answer; ``shots`` are examples shown first, with their answers."""
        return self._ids(self._text(row, shots, answered=False))

    def encode(self, row: Row) -> Example:
        """A row, cut at ``max_length`` tokens."""
        before, whole = self._text(row, (), answered=False), self._text(row, (), answered=True)
        if not whole.startswith(before):
            raise UserError.at(
                "model",
                "its chat template changes the prompt once there is an answer.",
                "Such templates are not supported.",
            )
        # Tokenized apart, as they will be when the model answers; what follows the end token is not learned.
        prompt = self._ids(before)
        completion = self._ids(whole[len(before) :].rstrip())
        eos = self.tokenizer.eos_token_id
        if eos in completion:
            completion = completion[: len(completion) - completion[::-1].index(eos)]
        elif completion[-1] not in self.tokenizer.all_special_ids:
            completion.append(eos)
        return Example(row, prompt[: self.data.max_length], completion[: max(0, self.data.max_length - len(prompt))])

    def encode_splits(self, splits: Splits) -> Encoded:
        """All rows; answers that ``max_length`` cuts away are dropped, and said.

        Raises:
            UserError: nothing is left of a split.
        """
        parts = {}
        for name in ("train", "validation", "test"):
            rows = getattr(splits, name)
            examples = [self.encode(row) for row in rows]
            kept = [example for example in examples if example.completion]
            cut = sum(example.completion[-1] not in self.tokenizer.all_special_ids for example in kept)
            limit = f"max_length = {self.data.max_length}"
            if rows and not kept:
                longest = max(len(self.prompt(row)) for row in rows)
                raise UserError.at(
                    "data.max_length",
                    f"{limit} cuts the answer away in all {len(rows)} rows of {name}.",
                    f"Prompts alone reach {longest} tokens: raise it.",
                )
            if len(kept) < len(rows):
                dropped = f"{len(rows) - len(kept)} of {len(rows)} rows of {name} dropped"
                self.say(f"data: {dropped}: {limit} cuts their answer away")
            if cut:
                self.say(f"data: {cut} of {len(rows)} answers of {name} are cut short by {limit}")
            parts[name] = kept
        ends = {example.completion[-1] for example in parts["train"]} & set(self.tokenizer.all_special_ids)
        end_ids = sorted(ends | {self.tokenizer.eos_token_id})
        return Encoded(self.tokenizer, **parts, end_ids=end_ids, pad_id=self.pad_id, fingerprint=splits.fingerprint)

    def _text(self, row: Row, shots: Sequence[Row], *, answered: bool) -> str:
        if not self.tokenizer.chat_template:
            turns = [f"{shot.prompt}\n{shot.completion}\n\n" for shot in shots]
            system = f"{self.data.system}\n\n" if self.data.system else ""
            return system + "".join(turns) + f"{row.prompt}\n" + (row.completion if answered else "")
        messages = [{"role": "system", "content": self.data.system}] if self.data.system else []
        for shot in shots:
            messages += [{"role": "user", "content": shot.prompt}, {"role": "assistant", "content": shot.completion}]
        messages.append({"role": "user", "content": row.prompt})
        if answered:
            messages.append({"role": "assistant", "content": row.completion})
        text: str = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=not answered)
        return text

    def _ids(self, text: str) -> list[int]:
        # A chat template writes its own first token: the tokenizer's would be a second one.
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def load_tokenizer(model: ModelSection, location: str) -> Any:
    """The model's tokenizer.

    Raises:
        UserError: it cannot be loaded.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(
            location, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise UserError.at(f"model {model.name}", f"its tokenizer cannot be loaded: {reason}") from None


def pad_batch(examples: Sequence[tuple[list[int], list[int]]], pad_id: int) -> dict[str, Any]:
    """Prompts and completions as one batch of tensors, each of shape (rows, longest row).

    Padding is on the left, so that all completions end in the last column and the model need compute its output
    head on the last columns only (``logits_to_keep``, an int); ``labels`` has just those columns. What is padding
    is known from the lengths, never from the token, which may be the end token's.
    """
    import torch

    width = max(len(prompt) + len(completion) for prompt, completion in examples)
    # One more than the longest completion: its first token is predicted from the token before.
    kept = max(len(completion) for _, completion in examples) + 1
    rows = []
    for prompt, completion in examples:
        padding = width - len(prompt) - len(completion)
        rows.append(
            {
                "input_ids": [pad_id] * padding + prompt + completion,
                "attention_mask": [0] * padding + [1] * (width - padding),
                "position_ids": [0] * padding + list(range(width - padding)),
                "labels": ([IGNORED] * (width - len(completion)) + completion)[-kept:],
            }
        )
    batch: dict[str, torch.Tensor | int] = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    batch["logits_to_keep"] = min(kept, width)
    return batch


def _pad_id(tokenizer: Any) -> int:
    """A padding token that is not the end token, where there is one."""
    for candidate in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if candidate is not None and candidate != tokenizer.eos_token_id:
            return int(candidate)
    return int(tokenizer.eos_token_id)
