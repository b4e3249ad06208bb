"""Load the tokenizer of a model or of an adapter."""

from __future__ import annotations

import re
from typing import Any

from adapterzoo.errors import UserError
from adapterzoo.model.files import never_ask
from adapterzoo.model.loading_errors import loading_error
from adapterzoo.model.padding import add_padding_token
from adapterzoo.recipe.schema import ModelSection

TEMPLATE_NAME = re.compile(r"[\w.-]*\w[\w.-]*")  # a name of one of several chat templates that can name a file


def load_tokenizer(model: ModelSection, location: str) -> Any:
    """Return the model's tokenizer.

    Raises:
        UserError: the tokenizer cannot be loaded, or its files name something that is no tokenizer.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    never_ask()
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            location, revision=model.revision, trust_remote_code=model.trust_remote_code
        )
        # transformers takes any of its classes that tokenizer_config.json names.
        if not isinstance(tokenizer, PreTrainedTokenizerBase):
            raise ValueError(f"its tokenizer_config.json names {type(tokenizer).__name__}, which is no tokenizer")
    except Exception as error:  # damaged files, and classes that are no tokenizers, may raise any error
        raise loading_error(model, error) from None
    for name in tokenizer.chat_template if isinstance(tokenizer.chat_template, dict) else ():
        if not TEMPLATE_NAME.fullmatch(name):  # it becomes the name of a file when the tokenizer is saved
            raise UserError.at(f"model {model.name}", f"has a chat template with the name {name!r}, which is no word.")
    if model.padding_token is not None:
        add_padding_token(tokenizer, model.padding_token)
    return tokenizer
