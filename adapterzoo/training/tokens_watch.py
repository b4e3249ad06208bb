"""Look whether the base model gets the tokens of the batches that its adapter is trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn


@contextmanager
def watched_tokens(model: nn.Module, report: Callable[[], None]) -> Iterator[None]:
    """Call a function after each call of a model in training whose embeddings got other tokens than the model.

    Args:
        model: the wrapped model.
        report: the function.
    """
    try:
        embeddings = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embeddings = None
    if not isinstance(embeddings, nn.Module):
        yield
        return
    wanted: list[torch.Tensor | None] = []  # the tokens of each call of the model that has not ended
    found: list[bool] = []  # for each call of the embeddings meanwhile, whether they got these tokens

    def called(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        found.clear()
        wanted.append(keywords.get("input_ids") if module.training else None)

    def embedded(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        tokens = wanted[-1] if wanted else None
        if tokens is not None and arguments and isinstance(arguments[0], torch.Tensor):
            found.append(torch.equal(arguments[0], tokens))

    def ended(*_: Any) -> None:
        if wanted.pop() is not None and found and not any(found):
            report()

    # The first hook sees what the trainer gives, and the last one what hooks of the method have made of it.
    handles = [
        model.register_forward_pre_hook(called, prepend=True, with_kwargs=True),
        model.register_forward_hook(ended, always_call=True),
        embeddings.register_forward_pre_hook(embedded),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
