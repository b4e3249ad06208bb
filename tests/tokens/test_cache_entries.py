"""Two different situations never share an entry of the token cache, whatever they differ in and whoever came first."""

from __future__ import annotations

import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapterzoo.data.split import Splits, fingerprint
from adapterzoo.data_row import DataRow
from adapterzoo.errors import UserError
from adapterzoo.recipe.schema import DataSection
from adapterzoo.tokens.cache import encode_splits
from adapterzoo.tokens.encode import Encoder

# Few and similar values, so that two situations often differ in one thing only.
WORDS = ("go", "went", "go ", "", "g", "o", "gone")
TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}X{% endif %}"
)
TEMPLATES = (None, TEMPLATE, TEMPLATE.replace("X", "assistant: "))
ADDED = ((), ("went",), ("go",), ("go", "went"))
"""tokens that are added to a tokenizer"""
rows = st.lists(st.builds(DataRow.pair, st.sampled_from(WORDS), st.sampled_from(WORDS[:2])), min_size=1, max_size=3)
situations = st.fixed_dictionaries(
    {
        "train": rows,
        "test": rows,
        "added": st.sampled_from(ADDED),
        "template": st.sampled_from(TEMPLATES),
        "settings": st.fixed_dictionaries(
            {
                "system": st.sampled_from((None, "go", "went")),
                "max_length": st.sampled_from((8, 24, 1024)),
                "truncate": st.sampled_from(("prompt", "completion", "drop")),
                "loss_on": st.sampled_from(("completion", "assistant", "all")),
            }
        ),
    }
)


def encode(tokenizer: Path, situation: dict[str, Any], *, cached: bool) -> Any:
    """Return the encoded rows and what was said about them, or the error."""
    from transformers import AutoTokenizer

    fast = AutoTokenizer.from_pretrained(tokenizer)
    fast.add_tokens(list(situation["added"]))
    fast.chat_template = situation["template"] or fast.chat_template
    said: list[str] = []
    parts = situation["train"], [], situation["test"]
    splits = Splits(*parts, fingerprint(parts), "qa")
    encoder = Encoder(fast, DataSection(source="x.csv", **situation["settings"]), said.append)
    try:
        encoded = encode_splits(encoder, splits) if cached else encoder.encode_splits(splits)
    except UserError as error:
        return str(error)
    return encoded.train, encoded.test, encoded.end_ids, encoded.pad_id, said


@settings(max_examples=60, deadline=None)
@given(st.lists(situations, min_size=2, max_size=4), st.data())
def test_no_situation_gets_the_tokens_of_another(tiny_model: Path, drawn: list[dict[str, Any]], data: Any) -> None:
    # Some differ in one thing only.
    first = drawn[0]
    for name in ("train", "test", "added", "template", "settings"):
        drawn.append({**first, name: drawn[1][name]})
    order = data.draw(st.permutations(range(len(drawn))))
    expected = [encode(tiny_model, situation, cached=False) for situation in drawn]
    with tempfile.TemporaryDirectory() as cache, pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTERZOO_CACHE", cache)
        for number in [*order, *order]:  # the second time, from the cache
            assert encode(tiny_model, drawn[number], cached=True) == expected[number]


def test_many_that_fill_one_cache_at_once_are_all_right(tiny_model: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("ADAPTERZOO_CACHE", str(tmp_path))
    usual = {"system": None, "max_length": 1024, "truncate": "prompt", "loss_on": "completion"}
    different = [
        {"train": [DataRow.pair("go", word)], "test": [DataRow.pair("go", "went")], "added": (), "template": None,
         "settings": usual} for word in ("went", "gone", "goes")
    ]  # fmt: skip
    expected = [encode(tiny_model, situation, cached=False) for situation in different]
    with ThreadPoolExecutor(8) as pool:
        numbers = list(range(3)) * 8
        found = list(pool.map(lambda number: encode(tiny_model, different[number], cached=True), numbers))
    assert found == [expected[number] for number in numbers]
