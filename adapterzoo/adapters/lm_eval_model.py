"""Give a loaded model the form in which lm-eval asks models, and show how many of its requests are done."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from adapterzoo.tokens.template import with_fixed_date

SECONDS = 15.0  # time between two messages about the same requests
OnProgress = Callable[[int, int], None]


def lm_eval_model(model: Any, tokenizer: Any, batch_size: int, on_progress: OnProgress) -> Any:
    """Return lm-eval's model of a loaded one.

    Args:
        model: a causal language model, with an adapter or without.
        tokenizer: its tokenizer.
        batch_size: number of requests that are answered at once.
        on_progress: is called now and then with the number of requests that are done, and of all requests of a kind.
    """
    from lm_eval.models.huggingface import HFLM

    class ShownModel(HFLM):  # type: ignore[misc]
        """Tells how many of its requests are done, in place of lm-eval's progress bars."""

        progress = Progress(on_progress)

        def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
            self.progress.begin(len(requests))
            return super().loglikelihood(requests, disable_tqdm=True)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> Any:
            self.progress.begin(len(requests))
            return super().loglikelihood_rolling(requests, disable_tqdm=True)

        def generate_until(self, requests: Any, disable_tqdm: bool = False) -> Any:
            self.progress.begin(len(requests))
            return super().generate_until(requests, disable_tqdm=True)

        def _model_call(self, inps: Any, *args: Any, **kwargs: Any) -> Any:
            self.progress.add(len(inps))
            return super()._model_call(inps, *args, **kwargs)

        def _model_generate(self, context: Any, *args: Any, **kwargs: Any) -> Any:
            self.progress.add(len(context))
            return super()._model_generate(context, *args, **kwargs)

    # lm-eval ties the output layer to the embeddings, and an adapter may have trained one of them alone.
    model.tie_weights = lambda *args, **kwargs: None
    if isinstance(tokenizer.chat_template, str):
        tokenizer.chat_template = with_fixed_date(tokenizer.chat_template)
    return ShownModel(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)


class Progress:
    """Counts the requests that a model has answered, and passes their number on now and then."""

    def __init__(self, on_progress: OnProgress) -> None:
        self._on_progress = on_progress
        self._asked = self._done = 0
        self._shown = time.monotonic()

    def begin(self, requests: int) -> None:
        """Note that requests of one kind begin."""
        self._asked, self._done = requests, 0

    def add(self, requests: int) -> None:
        """Note that more requests go through the model; requests with the same prompt may go through it only once."""
        if time.monotonic() - self._shown >= SECONDS:
            self._shown = time.monotonic()
            self._on_progress(min(self._done, self._asked), self._asked)
        self._done += requests
