"""What is measured of a model on the four rows: its logits, its loss, and what it generates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

    from adapterzoo.tokens.batches import Tokens
    from adapterzoo.tokens.encode import Encoded

NEW_TOKENS = 4
SHARED_TOKENS = 8


def logits(model: nn.Module, encoded: Encoded, at_once: bool = True) -> torch.Tensor:
    """The logits of each row's real tokens, (all tokens, vocabulary); in one padded batch, or a row at a time."""
    import torch

    rows = [example.tokens for example in encoded.test]
    model.eval()
    found = []
    with torch.no_grad():
        for group in [rows] if at_once else [[row] for row in rows]:
            found += _forward(model, group, encoded.pad_id)
    return torch.cat(found)


def loss(model: nn.Module, encoded: Encoded) -> float:
    """The mean loss of a completion's token, as evaluation has it."""
    from adapterzoo.evaluation.evaluate import likelihoods

    found = likelihoods(model, [example.tokens for example in encoded.train], encoded.pad_id, len(encoded.train))
    return sum(one.loss for one in found) / sum(one.tokens for one in found)


def greedy(model: Any, encoded: Encoded) -> list[list[int]]:
    """The first tokens of the greedy answer to each prompt, with a cache and padding."""
    import torch
    from transformers import GenerationConfig

    from adapterzoo.tokens.batches import asked, pad_batch

    batch = pad_batch([asked(example.prompt) for example in encoded.test], encoded.pad_id)
    # No token ends an answer: what follows an end would be padding, which no model finds likely.
    settings = GenerationConfig(
        max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=encoded.pad_id, eos_token_id=-1
    )
    model.eval()
    with torch.no_grad():
        output = model.generate(
            input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], generation_config=settings
        )
    answers: list[list[int]] = output[:, batch["input_ids"].shape[1] :].tolist()
    return answers


def behind(model: Any, encoded: Encoded) -> float:
    """How far, in logits, a greedily generated token is behind the likeliest one of a plain forward pass, at most."""
    import torch

    from adapterzoo.tokens.batches import asked

    gaps: list[float] = []
    for example, answer in zip(encoded.test, greedy(model, encoded), strict=True):
        with torch.no_grad():
            (row,) = _forward(model, [asked(example.prompt + answer[:-1])], encoded.pad_id)
        said = row[-NEW_TOKENS:]
        chosen = said.gather(1, torch.tensor(answer)[:, None])[:, 0]
        gaps.append((said.max(dim=1).values - chosen).max().item())
    return max(gaps)


def joined_gap(model: Any, encoded: Encoded) -> float:
    """Return how far loss and gradients of rows with a shared prefix are from those of padded rows, as a share."""
    import torch

    from adapterzoo.model.row_attention import has_row_attention
    from adapterzoo.tokens.batches import pad_batch
    from adapterzoo.tokens.shared_prefix import for_model, joined_batch

    begins = list(range(3, 3 + SHARED_TOKENS))
    rows = [([*begins, *ids], [False] * SHARED_TOKENS + learned) for ids, learned in (e.tokens for e in encoded.train)]
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    found = []
    model.train()
    ways = (False, True) if has_row_attention(model) else (False,)
    for batch in (pad_batch(rows, encoded.pad_id), *(joined_batch(rows, by_row=by_row) for by_row in ways)):
        loss = model(**for_model(batch, model)).loss
        gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
        found.append([loss.detach().reshape(1), *(g.reshape(-1) for g in gradients if g is not None)])
    return max(
        _share(torch.cat(found[0][part]), torch.cat(joined[part]))
        for part in (slice(1), slice(1, None))
        for joined in found[1:]
    )


def _share(before: torch.Tensor, after: torch.Tensor) -> float:
    size = before.norm().item()
    return (after - before).norm().item() / size if size else 0.0


def _forward(model: Any, rows: Sequence[Tokens], pad_id: int) -> list[torch.Tensor]:
    """The logits of one batch: of each row, those of its real tokens."""
    from adapterzoo.tokens.batches import pad_batch

    batch = pad_batch(rows, pad_id)
    batch.pop("labels")
    answered = model(**{**batch, "logits_to_keep": 0}).logits.float()
    return [row[mask.bool()] for row, mask in zip(answered, batch["attention_mask"], strict=True)]
