"""Modelfiles: for every family of chat templates, Ollama's prompt is what the model was trained to answer."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
from families import CHATML, FAMILIES, THINKING, tokenizer
from ollama import render, value

from adapterzoo.adapters.modelfile import modelfile
from adapterzoo.data_row import DataRow, Turn
from adapterzoo.errors import UserError
from adapterzoo.recipe.schema import DataSection
from adapterzoo.tokens.encode import Encoder

# Braces begin actions in Go's templates.
BRACES = (
    "{% for message in messages %}{{ '{' + message['role'] + '{{' + message['content'] + '}}<|im_end|>{' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '{assistant{{' }}{% endif %}"
)
DEFAULT_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nHelp.<|im_end|>\n' }}{% endif %}" + CHATML
)
TEMPLATES = {"default system": DEFAULT_SYSTEM, "thinking": THINKING, "braces": BRACES}
CONVERSATION = (
    ("user", "go{"), ("assistant", 'we"nt'), ("user", "be {{ .Content }}"), ("assistant", "was\n\nwere"), ("user", "é"),
)  # fmt: skip


def encoder(family: str, **settings: Any) -> tuple[Encoder, DataSection]:
    data = DataSection(**{"source": "x.csv", "max_length": 4096, **settings})
    own = copy.deepcopy(tokenizer(family if family in FAMILIES else "chatml"))
    own.chat_template = TEMPLATES.get(family, own.chat_template)
    return Encoder(own, data), data


@pytest.mark.parametrize("system", [None, 'Be "good".'])
@pytest.mark.parametrize("questions", [1, 2, 3])
@pytest.mark.parametrize("family", [*FAMILIES, *TEMPLATES])
def test_the_prompt_is_that_of_the_training(family: str, questions: int, system: str | None) -> None:
    writer, data = encoder(family, system=system)
    text = modelfile(writer, data)
    said = CONVERSATION[: 2 * questions - 1]
    row = DataRow((*(Turn(*message) for message in said), Turn("assistant", "?")))
    trained = writer.prompt(row)
    sent = [("system", value(text, "SYSTEM")), *said] if system else said
    prompt = writer.tokenizer(render(value(text, "TEMPLATE"), sent), add_special_tokens=False)["input_ids"]
    # The runtime adds the start token if the tokenizer does.
    ids = [*writer.start_ids, *prompt]
    assert writer.tokenizer.decode(ids) == writer.tokenizer.decode(trained)
    assert questions > 1 or ids == trained, "the training tokenizes earlier answers by themselves"
    assert (system is None) == ("SYSTEM" not in text)


def test_the_recipes_template_of_questions_is_part_of_the_prompt() -> None:
    settings = {"format": "qa", "columns": {"question": "verb", "answer": "past"}, "template": "Past of {question}?"}
    template = value(modelfile(*encoder("chatml", **settings)), "TEMPLATE")
    assert "Past of go?<|im_end|>" in render(template, [("user", "go")])


def test_plain_lines_and_texts_need_no_chat_template() -> None:
    plain = value(modelfile(*encoder("chatml", chat_template="plain", system="Help.")), "TEMPLATE")
    assert render(plain, [("system", "Help."), ("user", "go")]) == "Help.\n\ngo\n"
    text = modelfile(*encoder("chatml", format="text", system="Help."))
    assert render(value(text, "TEMPLATE"), [("user", "Once upon")]) == "Once upon"
    assert "SYSTEM" not in text, "a text has no system message"


def test_answers_end_and_are_the_likeliest_as_in_the_table() -> None:
    text = modelfile(*encoder("gemma"))
    stops = re.findall(r'^PARAMETER stop """(.*)"""$', text, re.MULTILINE)
    assert stops == ["<eos>", "<end_of_turn>"]
    assert "PARAMETER temperature 0\nPARAMETER repeat_penalty 1\n" in text
    assert text.startswith("FROM ./model.gguf\n")


@pytest.mark.parametrize(
    ("template", "settings", "reason"),
    [
        (CHATML.replace("message['content']", "message['content'] + loop.index | string"), {}, "in another way"),
        (CHATML.replace("message['content']", "message['content'] * 2"), {}, "repeats"),
        (CHATML, {"system": 'Say """ first.'}, "three quotation marks"),
        (CHATML, {"system": "Say \u200b first."}, "U+200B"),
    ],
)
def test_what_ollama_cannot_write_is_refused(template: str, settings: dict[str, Any], reason: str) -> None:
    writer, data = encoder("chatml", **settings)
    writer.tokenizer.chat_template = template
    with pytest.raises(UserError, match=re.escape(reason)):
        modelfile(Encoder(writer.tokenizer, data), data)
