"""The code in a card writes the prompts of the training, token for token."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from families import THINKING

from adapterzoo.adapters.finding import find_adapter
from adapterzoo.adapters.loading import question_row, saved_encoder
from adapterzoo.publishing import usage
from adapterzoo.publishing.origin import BaseModel, base_model
from adapterzoo.publishing.usage import QUESTION, usage_code
from adapterzoo.tokens.encode import Encoder


@pytest.mark.parametrize(
    ("changes", "call"),
    [
        ({}, "apply_chat_template"),
        ({"format": "messages"}, "apply_chat_template"),
        ({"system": None}, "apply_chat_template"),
        ({"template": "Past of '{verb}'\n?"}, "apply_chat_template"),
        ({"chat_template": "plain"}, "add_special_tokens=False"),
        ({"chat_template": "plain", "template": "{verb}, past:\n"}, "add_special_tokens=False"),
        ({"format": "text"}, "add_special_tokens=False"),
    ],
)
def test_prompts(changes: dict[str, Any], call: str, run_folder: Path) -> None:
    found = find_adapter(run_folder, "lora")
    data = found.recipe.data.model_copy(update=changes)
    adapter = replace(found, recipe=found.recipe.model_copy(update={"data": data}))
    code = usage_code(adapter, "ada/verbs", BaseModel("ada/base", "ada/base"), merged=False)
    assert call in code
    encoder = saved_encoder(adapter)
    known = {"tokenizer": encoder.tokenizer, "model": SimpleNamespace(device="cpu")}
    prompt = code[code.index("question =") : code.index("output =")].replace(QUESTION, "it's")
    exec(prompt, known)  # noqa: S102  # adapterzoo has just written it
    assert known["inputs"]["input_ids"][0].tolist() == encoder.prompt(question_row(data, "it's"))


@pytest.mark.parametrize("written", ["<think>\n\n</think>\n\nwent", "went"])
def test_what_a_template_has_before_an_answer_is_not_printed(
    written: str, run_folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = find_adapter(run_folder, "lora")
    tokenizer = saved_encoder(adapter).tokenizer
    tokenizer.chat_template = THINKING
    monkeypatch.setattr(usage, "saved_encoder", lambda adapter: Encoder(tokenizer, adapter.recipe.data))
    code = usage_code(adapter, "ada/verbs", BaseModel("ada/base", "ada/base"), merged=False)
    answer = torch.tensor([[0, *tokenizer(written)["input_ids"]]])
    known = {"tokenizer": tokenizer, "output": answer, "inputs": {"input_ids": torch.tensor([[0]])}}
    exec(code[code.index("answer =") :], known)  # noqa: S102  # adapterzoo has just written it
    assert capsys.readouterr().out == "went\n"


def test_a_prompt_of_several_columns_has_no_code(run_folder: Path) -> None:
    found = find_adapter(run_folder, "lora")
    data = found.recipe.data.model_copy(update={"template": "{verb} in {tense}"})
    adapter = replace(found, recipe=found.recipe.model_copy(update={"data": data}))
    code = usage_code(adapter, "ada/verbs", BaseModel("ada/base", "ada/base"), merged=False)
    assert "see data.template in the recipe below" in code
    compile(code, "README.md", "exec")


@pytest.mark.parametrize(
    ("name", "given", "id"),
    [
        ("smollm2-135m", None, "HuggingFaceTB/SmolLM2-135M-Instruct"),
        ("/models/tiny", None, None),
        ("/models/tiny", "ada/tiny", "ada/tiny"),
        ("ada/other", None, "ada/other"),
    ],
)
def test_the_base_model_is_named_as_far_as_it_is_known(
    name: str, given: str | None, id: str | None, run_folder: Path
) -> None:
    recipe = find_adapter(run_folder, "lora").recipe
    model = recipe.model.model_copy(update={"name": name, "revision": "v1"})
    base = base_model(recipe.model_copy(update={"model": model}), given)
    assert base.id == id
    assert base.revision == ("v1" if name == "ada/other" else None)
    assert "/" not in base.name or base.id is not None
