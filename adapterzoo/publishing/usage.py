"""Write the code by which a reader of a card loads an adapter or a model, and asks it as it was trained."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from adapterzoo.adapters.finding import Adapter
from adapterzoo.adapters.loading import answer_tokens, question_row, saved_encoder
from adapterzoo.data_row import DataRow
from adapterzoo.errors import UserError
from adapterzoo.machine.limits import TooLongError, stopped_after
from adapterzoo.publishing.origin import BaseModel
from adapterzoo.quantizations.contract import Code
from adapterzoo.quantizations.registry import quantizations

if TYPE_CHECKING:
    from adapterzoo.tokens.encode import Encoder
    from adapterzoo.tokens.encoded import Encoded

# The question in the code; the reader writes another one in its place.
QUESTION = "Write your question here."
MAX_NEW_TOKENS = 256
MAX_SECONDS = 5  # for a chat template, which may come from a stranger


def usage_code(adapter: Adapter, repository: str, base: BaseModel, *, merged: bool) -> str:
    """Return code that loads what is in a repository, and asks it one question.

    Args:
        adapter: the adapter.
        repository: id of the repository.
        base: the base model of the adapter.
        merged: whether the repository has a merged model.
    """
    lines = ["import torch"]
    lines += [] if merged else ["from peft import PeftModel"]
    code = None if merged else _quantization(adapter)
    more = f", {code.from_transformers}" if code and code.from_transformers else ""
    lines += [f"from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig{more}"]
    lines += [*(code.imports if code else ()), ""]
    lines += [f"repository = {repository!r}", "tokenizer = AutoTokenizer.from_pretrained(repository)"]
    lines += _merged(adapter) if merged else _adapter(adapter, base)
    # The scores were measured without it too: it may be a penalty for repetition.
    lines += ["model.generation_config = GenerationConfig()  # without the settings that come with the base model"]
    return "\n".join([*lines, "", *_asking(adapter)])


def _dtype(adapter: Adapter) -> str:
    return f"torch.{adapter.recipe.model.dtype}"


def _merged(adapter: Adapter) -> list[str]:
    """Return the lines that load a merged model."""
    call = f"AutoModelForCausalLM.from_pretrained(repository, dtype={_dtype(adapter)}, device_map='auto')"
    return [f"model = {call}.eval()"]


def _adapter(adapter: Adapter, base: BaseModel) -> list[str]:
    """Return the lines that load the base model as in training, and put the adapter on it."""
    model = adapter.recipe.model
    settings = [f"dtype={_dtype(adapter)}"]
    settings += [f"revision={base.revision!r}"] if base.revision else []
    settings += [f"quantization_config={code.expression}"] if (code := _quantization(adapter)) else []
    settings += ["trust_remote_code=True"] if model.trust_remote_code else []
    comment = "" if base.id else "  # write its hub id or its folder here"
    lines = ["base = AutoModelForCausalLM.from_pretrained(", f"    {(base.id or base.name)!r},{comment}"]
    lines += [f"    {setting}," for setting in [*settings, "device_map='auto'"]]
    lines += [")"]
    if model.padding_token is not None:  # the padding token has an embedding of its own
        lines += ["base.resize_token_embeddings(len(tokenizer), mean_resizing=False)"]
    return [*lines, "model = PeftModel.from_pretrained(base, repository).eval()"]


def _quantization(adapter: Adapter) -> Code | None:
    """Return code for the quantization that the adapter was trained on; None if there was none, or no code loads it."""
    quantization = quantizations()[adapter.result.quantization]
    return quantization.code(_dtype(adapter), adapter.recipe.model.double_quantization)


def _asking(adapter: Adapter) -> list[str]:
    """Return the lines that ask a question with exactly the tokens of the training."""
    encoder = saved_encoder(adapter)
    try:
        row = question_row(adapter.recipe.data, QUESTION)
    except UserError:
        return ["# The prompts of its training are made of several columns: see data.template in the recipe below."]
    wanted = encoder.prompt(row)
    for prompt in (_chat(encoder, row, wanted), _text(encoder, wanted)):
        if prompt is not None:
            break
    else:
        return ["# No short code writes the prompts of its training; adapterzoo generate asks it."]
    encoded = answer_tokens(encoder, row)
    ends = f"eos_token_id={encoded.end_ids}, pad_token_id={encoded.pad_id}"
    return [
        f'question = "{QUESTION}"',  # in these quotes, because many questions have an apostrophe
        *prompt,
        f"output = model.generate(**inputs, max_new_tokens={MAX_NEW_TOKENS}, do_sample=False, {ends})",
        "answer = tokenizer.decode(output[0, inputs['input_ids'].shape[1] :], skip_special_tokens=True).strip()",
        f"print(answer{_without_header(encoded)})",
    ]


def _without_header(encoded: Encoded) -> str:
    """Return code that removes from an answer what the chat template has before answers; empty if it has nothing."""
    ids = encoded.tokenizer(encoded.answer_header, add_special_tokens=False)["input_ids"]
    header = encoded.tokenizer.decode(ids, skip_special_tokens=True).strip()
    return f".removeprefix({header!r}).strip()" if header else ""


def _chat(encoder: Encoder, row: DataRow, wanted: list[int]) -> list[str] | None:
    """Return lines that write the prompt by the chat template; None if it then has other tokens."""
    system = encoder.data.system
    messages = [{"role": "system", "content": system}] if system else []
    messages += [{"role": turn.role, "content": turn.content} for turn in row.turns[:-1]]
    settings: dict[str, Any] = {"add_generation_prompt": True, "return_dict": True}
    try:
        with stopped_after(MAX_SECONDS):
            found = encoder.tokenizer.apply_chat_template(messages, **settings)["input_ids"]
    except (Exception, TooLongError):  # there is no template, or it cannot write these messages in time
        return None
    if list(found) != wanted:
        return None
    written = [f"{{'role': {turn['role']!r}, 'content': {_expression(turn['content'])}}}" for turn in messages]
    return [
        "messages = [",
        *(f"    {message}," for message in written),
        "]",
        "inputs = tokenizer.apply_chat_template(",
        "    messages, add_generation_prompt=True, return_dict=True, return_tensors='pt'",
        ").to(model.device)",
    ]


def _text(encoder: Encoder, wanted: list[int]) -> list[str] | None:
    """Return lines that write the prompt as a text; None if it then has other tokens."""
    text = encoder.tokenizer.decode(wanted, skip_special_tokens=False, clean_up_tokenization_spaces=False)
    if QUESTION not in text or list(encoder.tokenizer(text, add_special_tokens=False)["input_ids"]) != wanted:
        return None
    return [
        f"text = {_expression(text)}",
        "inputs = tokenizer(text, add_special_tokens=False, return_tensors='pt').to(model.device)",
        "inputs.pop('token_type_ids', None)",
    ]


def _expression(text: str) -> str:
    """Return a Python expression for a text, in which the question is the variable ``question``."""
    return " + ".join(_parts(text)) or "''"


def _parts(text: str) -> Iterator[str]:
    for number, part in enumerate(text.split(QUESTION)):
        if number:
            yield "question"
        if part:
            yield repr(part)
