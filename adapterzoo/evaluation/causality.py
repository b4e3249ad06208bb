"""Check that a model predicts a token from what comes before it alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from adapterzoo.tokens.batches import Tokens, pad_batch, to_device, without_labels

if TYPE_CHECKING:
    from torch import nn

# Accept a change of the logits up to this share of their standard deviation: rounding in 8 bits depends on all tokens.
TOLERANCE = 0.1


def looks_ahead(model: nn.Module, rows: Sequence[Tokens], pad_id: int) -> bool:
    """Tell whether a model's predictions depend on tokens that follow.

    A model that has looked at the answer finds it likely, and shows a loss that says nothing.

    Args:
        model: the model; it is left in evaluation mode.
        rows: some rows; what follows their first learned token is replaced.
        pad_id: id of the token that pads rows.
    """
    import torch

    others = [
        # The first learned token stays, because the logits before it are compared.
        ([token if index <= flags.index(True) else ids[0] for index, token in enumerate(ids)], flags)
        for ids, flags in rows
    ]
    model.eval()
    outputs = []
    with torch.no_grad():
        for batch in (pad_batch(rows, pad_id), pad_batch(others, pad_id)):
            arguments = without_labels(to_device(batch, model))
            outputs.append(model(**{**arguments, "logits_to_keep": 0}).logits.float())
    width = outputs[0].shape[1]
    for number, (_, flags) in enumerate(rows):
        begin = width - len(flags)
        before, after = (output[number, begin : begin + flags.index(True) + 1] for output in outputs)
        if (before - after).abs().max() > TOLERANCE * before.std():
            return True
    return False
