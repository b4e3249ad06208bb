"""The padding token: one that is there and ends nothing, or one of its own with room in the embeddings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from adapterzoo.errors import UserError

if TYPE_CHECKING:
    from torch import nn

# Matrix products on a GPU are fastest with sizes that are multiples of this.
MULTIPLE = 8


def padding_token(tokenizer: Any) -> int:
    """The id of a padding token that is not the end token, where there is one.

    What is padding is known from the lengths, never from the token: which one it is disturbs no loss.
    """
    for candidate in (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.bos_token_id):
        if candidate is not None and candidate != tokenizer.eos_token_id:
            return int(candidate)
    return int(tokenizer.eos_token_id)


def add_padding_token(tokenizer: Any, token: str) -> None:
    """Make a token the tokenizer's padding token; it is added where there is none of that name.

    Raises:
        UserError: it is the end token, which must be learned.
    """
    if token == tokenizer.eos_token:
        what = f"'{token}' is the end token: a model that never sees it learned does not stop."
        raise UserError.at("model.padding_token", what, "Choose another, or leave it out.")
    tokenizer.add_special_tokens({"pad_token": token})


def make_room(model: Any, vocabulary: int) -> None:
    """Give a model embeddings for added tokens, to a multiple of 8; the others stay as they are.

    A new embedding is the mean of the old ones: the same each time the base is loaded, and a token that the model
    finds no likelier than any other.
    """
    import torch

    old = model.get_input_embeddings().weight.shape[0]
    if vocabulary <= old:
        return
    model.resize_token_embeddings(vocabulary, pad_to_multiple_of=MULTIPLE, mean_resizing=False)
    layers: list[nn.Module | None] = [model.get_input_embeddings(), model.get_output_embeddings()]
    with torch.no_grad():
        for layer in layers:
            for tensor in () if layer is None else layer.parameters():
                tensor[old:] = tensor[:old].float().mean(dim=0).to(tensor.dtype)
