"""Choose or add the padding token, and give the model embeddings for added tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterzoo.errors import UserError

if TYPE_CHECKING:
    from torch import nn

VOCABULARY_MULTIPLE = 8  # matrix products on a GPU are fastest with sizes that are multiples of it


def choose_padding_id(tokenizer: Any) -> int:
    """Return the id to pad with: of the padding, unknown and start tokens, the first that is not the end token.

    The choice does not change a loss, because padding is known from the lengths of rows and not from the token.
    """
    for candidate in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if candidate is not None and candidate != tokenizer.eos_token_id:
            return int(candidate)
    return int(tokenizer.eos_token_id)


def add_padding_token(tokenizer: Any, token: str) -> None:
    """Make a token the tokenizer's padding token, and add it if the tokenizer does not have it.

    Raises:
        UserError: the token is the end token, which must be learned.
    """
    if token == tokenizer.eos_token:
        what = f"'{token}' is the end token: a model that does not learn it never stops."
        raise UserError.at("model.padding_token", what, "Choose another token, or leave it out.")
    tokenizer.add_special_tokens({"pad_token": token})


def add_embeddings(model: Any, vocabulary: int) -> None:
    """Give a model embeddings for added tokens, up to a multiple of 8, and leave the others as they are.

    A new embedding is the mean of the old ones, so that it is the same at each loading of the base model, and its token
    is not more likely than others.

    Args:
        model: the model.
        vocabulary: number of embeddings that the tokenizer needs.
    """
    import torch

    old = model.get_input_embeddings().weight.shape[0]
    if vocabulary <= old:
        return
    model.resize_token_embeddings(vocabulary, pad_to_multiple_of=VOCABULARY_MULTIPLE, mean_resizing=False)
    layers: list[nn.Module | None] = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        for layer in layers:
            for tensor in () if layer is None else layer.parameters():
                tensor[old:] = tensor[:old].float().mean(dim=0).to(tensor.dtype)
