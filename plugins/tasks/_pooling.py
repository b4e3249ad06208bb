"""Pool the outputs of a model for the tokens of a text into one embedding, as sentence-transformers does."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from adapterzoo_plugins.tasks._own_pooling import Mode, own_pooling

if TYPE_CHECKING:
    import torch

NAMES: dict[str, Mode] = {"mean": "mean", "cls": "cls", "last": "lasttoken"}
"""name in a recipe -> sentence-transformers' name"""


class Pooling(NamedTuple):
    """The way in which a model's outputs for the tokens of a text become one embedding."""

    mode: Mode
    adds_end: bool
    """whether texts get the tokenizer's end token, if they do not end with it"""
    reason: str
    """why it was chosen, for messages"""
    normalizes: bool = False
    """whether embeddings get the length 1, which matters to a loss of distances"""


def choose_pooling(name: Literal["auto", "mean", "cls", "last"], config: Any, max_length: int) -> Pooling:
    """Return the pooling that a recipe names; for ``auto``, the model's own, or else the usual one of its kind.

    Args:
        name: the option of the task.
        config: the model's configuration, as transformers loads it.
        max_length: largest number of tokens of a text.

    Raises:
        UserError: the model's own files cannot be read, or it embeds texts in a way that this task does not have.
    """
    if name != "auto":
        return Pooling(NAMES[name], name == "last", "from the recipe")
    if (own := own_pooling(config, max_length)) is not None:
        return Pooling(own.mode, False, "from the model's own files", own.normalizes)
    if _reads_forward_only(config):
        return Pooling(NAMES["last"], True, "the model is causal: only the last token has seen the whole text")
    return Pooling(NAMES["mean"], False, "the model is an encoder")


def pooled(hidden: torch.Tensor, mask: torch.Tensor, pooling: Pooling) -> torch.Tensor:
    """Return the embedding of each text in float32.

    Args:
        hidden: output for each token, of shape (texts, tokens, width). Tokens that a method puts in front of the texts
            may be in it, and are left out.
        mask: 1 for each token of a text and 0 for padding, of shape (texts, tokens of the texts).
        pooling: how the outputs become an embedding.
    """
    from torch.nn.functional import normalize

    own = hidden[:, -mask.shape[1] :].float()
    module = _module(own.shape[-1], pooling.mode)
    found: torch.Tensor = module({"token_embeddings": own, "attention_mask": mask})["sentence_embedding"]
    return normalize(found, dim=1) if pooling.normalizes else found


@cache
def _module(width: int, mode: Mode) -> Any:
    from sentence_transformers.sentence_transformer.modules import Pooling as Module

    return Module(width, mode)


def _reads_forward_only(config: Any) -> bool:
    """Tell whether a model is a decoder: it can continue texts, and has no variant that fills gaps, like encoders."""
    from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

    continues, fills = (type(config) in kind._model_mapping for kind in (AutoModelForCausalLM, AutoModelForMaskedLM))
    return continues and not fills
