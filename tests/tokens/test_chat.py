"""Chat templates: for every family of models only the answers and their end tokens are learned."""

from __future__ import annotations

import copy
import resource
import time
from pathlib import Path
from typing import Any

import pytest
from families import FAMILIES, THINKING, tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from adapterzoo.data.split import Splits
from adapterzoo.data_row import DataRow, Turn
from adapterzoo.errors import UserError
from adapterzoo.evaluation.decoding import decoded
from adapterzoo.recipe.schema import DataSection
from adapterzoo.tokens.encode import Encoder

# Leave out the character that marks a space in sentencepiece, because decoding changes it, and what special tokens
# begin with, which a tokenizer reads in any text: hypothesis takes texts like </s> from the code of the package.
TEXTS = st.text(min_size=1, max_size=40).map(str.strip).filter(lambda text: text and not {*"▁<["} & {*text})
CONVERSATIONS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=3)


def encoder_for(family: str, messages: list[str] | None = None, **settings: Any) -> Encoder:
    section = DataSection(**{"source": "x.csv", "max_length": 4096, **settings})
    return Encoder(copy.deepcopy(tokenizer(family)), section, (messages if messages is not None else []).append)


def conversation(*exchanges: tuple[str, str], system: str | None = None) -> DataRow:
    turns = [Turn("system", system)] if system else []
    for question, answer in exchanges:
        turns += [Turn("user", question), Turn("assistant", answer)]
    return DataRow(tuple(turns))


def learned(encoder: Encoder, row: DataRow) -> str:
    example = encoder.encode(row)
    assert example is not None
    ids = [token for token, wanted in zip(*example.tokens, strict=True) if wanted]
    text: str = encoder.tokenizer.decode(ids)
    return text


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(exchanges=CONVERSATIONS)
def test_the_loss_sees_the_answers_and_their_end_tokens(family: str, exchanges: list[tuple[str, str]]) -> None:
    end = FAMILIES[family][2]
    row = conversation(*exchanges)
    assert learned(encoder_for(family), row).strip() == exchanges[-1][1] + end
    every = learned(encoder_for(family, loss_on="assistant"), row)
    # Strip the answers, because some tokenizers decode the first word of a text with a space in front.
    assert [part.strip() for part in every.split(end)] == [*(answer for _, answer in exchanges), ""]
    whole = encoder_for(family, loss_on="all")
    example = whole.encode(row)
    assert example is not None
    assert example.learned == [False, *[True] * (len(example.learned) - 1)]
    bos = whole.tokenizer.bos_token_id
    assert bos is None or example.tokens[0].count(bos) == 1
    # Training and evaluation use the same prompt.
    assert example.prompt == whole.prompt(row)


@pytest.mark.parametrize("family", FAMILIES)
@settings(max_examples=50, deadline=None)
@given(question=TEXTS, answer=TEXTS)
def test_plain_text_has_one_start_token_and_one_end_token(family: str, question: str, answer: str) -> None:
    encoder = encoder_for(family, chat_template="plain", loss_on="all")
    example = encoder.encode(conversation((question, answer)))
    assert example is not None
    ids = example.tokens[0]
    assert ids[-1] == encoder.tokenizer.eos_token_id
    if encoder.tokenizer.bos_token_id is not None:
        assert ids[0] == encoder.tokenizer.bos_token_id
        assert ids.count(encoder.tokenizer.bos_token_id) == 1
    assert encoder.tokenizer.decode(example.completion, skip_special_tokens=True).strip() == answer


@pytest.mark.parametrize("family", FAMILIES)
def test_a_system_message_is_in_the_prompt_or_folded_into_it(family: str) -> None:
    messages: list[str] = []
    encoder = encoder_for(family, messages, system="Be brief.")
    example = encoder.encode(conversation(("Hello?", "Yes.")))
    assert example is not None
    text = encoder.tokenizer.decode(example.prompt)
    assert "Be brief." in text
    folded = family in ("gemma", "mistral")
    assert bool(messages) == folded
    assert not folded or messages == [
        "model: its chat template accepts no system message; the first question begins with it instead"
    ]
    own = encoder.encode(conversation(("Hello?", "Yes."), system="Be long."))
    assert own is not None
    assert "Be long." in encoder.tokenizer.decode(own.prompt)
    assert "Be brief." not in encoder.tokenizer.decode(own.prompt)


def test_a_template_that_writes_more_into_the_last_answer(tmp_path: Path) -> None:
    path = tmp_path / "thinking.jinja"
    path.write_text(THINKING)
    encoder = encoder_for("chatml", loss_on="assistant", chat_template=str(path))
    for first, second in (("a1", "a2"), ("<", "k"), ("think", "<think>")):
        row = conversation(("q1", first), ("q2", second))
        assert learned(encoder, row) == f"{first}<|im_end|><think>\n\n</think>\n\n{second}<|im_end|>"


def test_what_a_template_has_before_an_answer_is_not_scored(tmp_path: Path) -> None:
    """Otherwise no answer of a Qwen3 would be the right one: the model learns to write an empty thought first."""
    path = tmp_path / "thinking.jinja"
    path.write_text(THINKING)
    messages: list[str] = []
    encoder = encoder_for("chatml", messages, chat_template=str(path))
    encoded = encoder.encode_splits(Splits([conversation(("q", "a b"))], [], [conversation(("q", "a b"))], "", "qa"))
    learned_ids = encoded.test[0].completion
    assert encoder.tokenizer.decode(learned_ids).startswith("<think>")
    assert decoded(learned_ids, encoded) == "a b"
    assert decoded(encoder.tokenizer("<think> a b")["input_ids"], encoded) == "<think> a b", "it has begun otherwise"
    assert decoded([], encoded) == ""
    assert any("'<think>\\n\\n</think>' before an answer" in message for message in messages)


def test_shots_stand_between_the_system_message_and_the_question() -> None:
    encoder = encoder_for("llama3", system="S")
    ids = encoder.prompt(conversation(("q", "a")), [conversation(("q1", "a1"))])
    text = encoder.tokenizer.decode(ids)
    assert text.count("S<|eot_id|>") == text.count("<|begin_of_text|>") == 1
    assert text.index("S<") < text.index("q1") < text.index("a1") < text.index("q<|eot_id|>")


def test_a_template_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "own.jinja"
    path.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}{{ eos_token }}\n{% endfor %}"
                    "{% if add_generation_prompt %}assistant: {% endif %}")  # fmt: skip
    encoder = encoder_for("chatml", chat_template=str(path))
    example = encoder.encode(conversation(("q", "a")))
    assert example is not None
    assert encoder.tokenizer.decode(example.prompt + example.completion) == "user: q<|im_end|>\nassistant: a<|im_end|>"
    assert encoder.tokenizer.chat_template == path.read_text(), "the template is saved with the tokenizer"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% for m in messages %}{{ m.content[::-1] }}{% endfor %}", "does not write an answer as it is given"),
        ("{{ raise_exception('no') }}", "refuses the turns (no)"),
        ("{{ raise_exception('') }}", "refuses the turns (TemplateError)"),
        ("{{ messages | length }}{% for m in messages %}{{ m.content }}{% endfor %}", "changes the prompt when"),
    ],
)
def test_templates_that_cannot_be_learned_from(template: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "odd.jinja"
    path.write_text(template)
    with pytest.raises(UserError) as caught:
        encoder_for("chatml", chat_template=str(path)).encode(conversation(("question", "answer")))
    assert expected in str(caught.value)
    assert "data.chat_template" in str(caught.value)


def test_a_file_that_is_no_template(tmp_path: Path) -> None:
    path = tmp_path / "broken.jinja"
    path.write_text("\n{% for m in messages %}")
    with pytest.raises(UserError, match=r"broken.jinja:2: is not a Jinja template"):
        encoder_for("chatml", chat_template=str(path))


def test_a_template_without_a_generation_prompt(tmp_path: Path) -> None:
    """If a model learned the tokens that the template writes before an answer, it would begin its answers with them."""
    path = tmp_path / "own.jinja"
    path.write_text("{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}")
    messages: list[str] = []
    encoder = encoder_for("chatml", messages, chat_template=str(path), loss_on="assistant")
    row = conversation(("q1", "a1"), ("q2", "a2"))
    assert learned(encoder, row) == "a1a2<|im_end|>"
    assert encoder.tokenizer.decode(encoder.prompt(row)) == "user: q1\nassistant: a1\nuser: q2\nassistant: "
    assert "no generation prompt" in messages[0]
    assert learned(encoder, conversation(("q", "a"))) == "a<|im_end|>", "the answer is not taken for the a of assistant"


def test_a_template_that_writes_the_date_writes_the_same_one_every_day(tmp_path: Path) -> None:
    """Else prompts from the cache would have another date than new ones."""
    path, messages = tmp_path / "dated.jinja", list[str]()
    path.write_text(f"Today: {{{{ strftime_now('%d %b %Y') }}}}\n{tokenizer('chatml').chat_template}")
    encoder = encoder_for("chatml", messages, chat_template=str(path))
    assert "Today: 26 Jul 2024" in encoder.chat.segments(conversation(("question", "answer")))[0].text
    assert messages == ["model: its chat template writes the current date; every row gets 26 July 2024 instead"]


def test_a_template_that_is_empty(tmp_path: Path) -> None:
    (tmp_path / "own.jinja").write_text("\n")
    with pytest.raises(UserError, match=r"own.jinja: is empty"):
        encoder_for("chatml", chat_template=str(tmp_path / "own.jinja"))


def test_a_template_that_drops_the_question_is_refused(tmp_path: Path) -> None:
    """Else every row would have the same prompt."""
    path = tmp_path / "deaf.jinja"
    path.write_text("{% for m in messages if m.role != 'user' %}<|{{ m.role }}|>{{ m.content }}{% endfor %}")
    with pytest.raises(UserError, match=r"deaf.jinja: the template leaves out the question"):
        encoder_for("chatml", chat_template=str(path))


def test_rows_that_a_template_shortens_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "short.jinja"
    path.write_text(
        "{% for m in messages %}{{ m.role }}: {% if m.role == 'user' %}{{ m.content[:12] }}{% else %}{{ m.content }}"
        "{% endif %}<|im_end|>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    messages: list[str] = []
    answer = "the answer to much longer than that"  # contains the whole question
    rows = [DataRow.pair("short", "a", "f.csv:2"), DataRow.pair("much longer than that", answer, "f.csv:3")]
    splits = Splits(train=rows, validation=[], test=rows[:1], fingerprint="", format="qa")
    encoder_for("chatml", messages, chat_template=str(path)).encode_splits(splits)
    what = "1 of 2 rows of train: the chat template leaves out or changes part of what is asked (first: f.csv:3)"
    assert f"data: {what}" in messages
    assert not any("rows of test" in line for line in messages)


ENDLESS = "{% for a in range(99999) %}{% for b in range(99999) %}{{ a + b }}{% endfor %}{% endfor %}"


@pytest.mark.parametrize(
    ("attack", "expected"),
    [
        (ENDLESS, "the template was stopped: it ran for more than 0.2 seconds"),
        (ENDLESS.replace("{{ a + b }}", ""), "ran for more than 0.2 seconds"),
        ("{{ 7 ** (7 ** 9) }}", "ran for more than 0.2 seconds"),
        ("{{ 'x' * 10 ** 9 }}", "took more than 0.25 GB of memory"),
        ("{{ 'x' * 10 ** 12 }}", "took more than 0.25 GB of memory"),
        ("{{ 'x' * 10 ** 6 }}", "writes 1,000,"),
        ("{% if messages[0].content == 'Why?' %}" + ENDLESS + "{% endif %}", "0.2 seconds for rows.csv:7. Give"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", "nested too deeply"),
        ("strftime_now('" * 30_000, "writes 420,"),
    ],
)
def test_a_template_that_takes_too_much_is_stopped(
    attack: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.tokens import chat

    monkeypatch.setattr(chat, "MAX_SECONDS", 0.2)
    monkeypatch.setattr(chat, "MAX_MORE_BYTES", 2**28)
    path = tmp_path / "own.jinja"
    path.write_text(f"{attack}{tokenizer('chatml').chat_template}")
    begun = time.process_time()
    with pytest.raises(UserError) as caught:
        encoder_for("chatml", chat_template=str(path)).encode(DataRow.pair("Why?", "So.", "rows.csv:7"))
    assert str(caught.value).startswith(str(path))
    assert expected in str(caught.value)
    assert time.process_time() - begun < 30
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4e6, "in kilobytes, with torch"


def test_templates_with_several_forms_and_no_default_are_refused() -> None:
    several = copy.deepcopy(tokenizer("chatml"))
    several.chat_template = {"a": "{{ messages }}", "b": "{{ messages }}"}
    with pytest.raises(UserError, match="has several forms, and none of them is called default"):
        Encoder(several, DataSection(source="x.csv"))
