"""Show an answer word by word while a model generates it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from adapterzoo.evaluation.continuing import AnswerTokens
from adapterzoo.evaluation.decoding import decoded, header_size
from adapterzoo.evaluation.generation import generated, readable
from adapterzoo.tokens.batches import pad_batch, row_tokens

if TYPE_CHECKING:
    import torch
    from torch import nn


def stream(
    model: nn.Module, encoded: AnswerTokens, prompt: list[int], max_new_tokens: int, show: Callable[[str], None]
) -> str:
    """Return the greedy answer to one prompt, and call a function with each piece of its text as soon as it is known.

    An answer ends where the model can read no more tokens.
    """
    from transformers import TextStreamer

    batch = pad_batch([row_tokens(prompt)], encoded.pad_id)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    pieces, begun = TextStreamer(encoded.tokenizer, skip_special_tokens=True), False

    def show_text(text: str, stream_end: bool = False) -> None:
        nonlocal begun
        shown = text if begun else text.lstrip()
        begun = begun or bool(shown)
        show(shown)

    pieces.on_finalized_text = show_text
    limit = min(max_new_tokens, readable(model) - len(prompt))
    model.eval()
    streamer = _AnswerStreamer(pieces, encoded)
    (ids,) = generated(model, inputs, limit, encoded.end_ids, encoded.pad_id, streamer=streamer)
    return decoded(ids[len(prompt) :], encoded)


class _AnswerStreamer:
    """A streamer of transformers that gives another one the answer alone, as :func:`decoded` returns it."""

    def __init__(self, pieces: Any, encoded: AnswerTokens) -> None:
        """Make a streamer that gives tokens to another one, ``pieces``."""
        self._pieces, self._encoded = pieces, encoded
        self._after_prompt = False
        self._begin: list[int] | None = []
        """tokens that may turn out to be what the chat template has before answers; None once that is known"""

    def put(self, tokens: torch.Tensor) -> None:
        """Receive the tokens of the prompt, and then each token of the answer."""
        if not self._after_prompt:
            self._after_prompt = True
        elif self._begin is None:
            self._pieces.put(tokens)
        else:
            self._begin += tokens.flatten().tolist()
            size = header_size(self._begin, self._encoded)
            if size is not None:
                self._pass_on(size)

    def end(self) -> None:
        """Receive the end of the answer."""
        self._pass_on(0)
        self._pieces.end()

    def _pass_on(self, begin: int) -> None:
        """Pass on the tokens that were held back, except the first ones."""
        import torch

        for token in (self._begin or [])[begin:]:
            self._pieces.put(torch.tensor([token]))
        self._begin = None
