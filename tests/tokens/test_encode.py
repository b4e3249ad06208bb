"""Encoding rows: prompt, completion, end token, learned tokens, padding, and cutting long rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import families
import pytest
import torch

from adapterzoo.data.split import Splits
from adapterzoo.data_row import DataRow, Turn
from adapterzoo.errors import UserError
from adapterzoo.recipe.schema import DataSection
from adapterzoo.tokens.batches import pad_batch, row_tokens
from adapterzoo.tokens.encode import Encoder

EOS, PAD = 2, 0


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def data(**changes: Any) -> DataSection:
    return DataSection(**{"source": "x.csv", **changes})


def splits(*rows: DataRow) -> Splits:
    return Splits([*rows], [], [*rows], "fingerprint", "qa")


def test_the_completion_is_the_answer_and_the_end_token(tokenizer: Any) -> None:
    example = Encoder(tokenizer, data(system="Be brief.")).encode(DataRow.pair("go", "went"))
    assert (
        tokenizer.decode(example.prompt)
        == "<|start|>system\nBe brief.<|end|>\n<|start|>user\ngo<|end|>\n<|start|>assistant\n"
    )
    assert tokenizer.decode(example.completion) == "went<|end|>"
    assert example.completion[-1] == EOS


def test_the_end_token_is_in_the_loss_and_padding_is_another_token_that_is_not(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id, "as in the bundled model"
    encoder = Encoder(tokenizer, data())
    encoded = encoder.encode_splits(splits(DataRow.pair("go", "went"), DataRow.pair("photograph", "photographed")))
    assert encoded.pad_id == PAD != EOS
    assert encoded.end_ids == [EOS]
    batch = pad_batch([example.tokens for example in encoded.train], encoded.pad_id)
    kept = batch["logits_to_keep"]
    assert batch["labels"].shape == (2, kept)
    for i, example in enumerate(encoded.train):
        labels = batch["labels"][i]
        assert labels[labels != -100].tolist() == example.completion
        assert labels[-1] == EOS
        assert labels[0] == -100, "the first kept column only predicts the next one"
        real = batch["attention_mask"][i].bool()
        assert batch["input_ids"][i][real].tolist() == example.prompt + example.completion
        assert batch["position_ids"][i][real].tolist() == list(range(len(example.prompt) + len(example.completion)))


def test_there_is_one_start_token(tokenizer: Any) -> None:
    """A chat template writes the start token, so a tokenizer that adds one must not add a second."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", 1)]
    )
    assert tokenizer("x")["input_ids"][0] == 1
    example = Encoder(tokenizer, data()).encode(DataRow.pair("go", "went"))
    assert example.prompt[:2].count(1) == 1
    assert 1 not in example.completion


def test_shots_are_turns_before_the_question(tokenizer: Any) -> None:
    ids = Encoder(tokenizer, data()).prompt(DataRow.pair("go", "went"), [DataRow.pair("eat", "ate")])
    text = "<|start|>user\neat<|end|>\n<|start|>assistant\nate<|end|>\n<|start|>user\ngo<|end|>\n<|start|>assistant\n"
    assert tokenizer.decode(ids) == text


def test_a_tokenizer_without_template_is_announced(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    messages: list[str] = []
    example = Encoder(tokenizer, data(system="S"), messages.append).encode(DataRow.pair("go", "went"))
    assert tokenizer.decode(example.prompt) == "S\n\ngo\n"
    assert tokenizer.decode(example.completion) == "went<|end|>"
    assert "no chat template" in messages[0]


def lengths(example: Any) -> tuple[int, int]:
    return len(example.prompt), len(example.completion)


def test_a_long_question_is_cut_and_its_answer_is_not(tokenizer: Any) -> None:
    """The middle of the question is removed; its beginning, its end and the chat template stay."""
    row = DataRow.pair("BEGIN " + "x" * 100 + " END", "went")
    whole = Encoder(tokenizer, data(system="S")).encode(row)
    example = Encoder(tokenizer, data(system="S", max_length=80)).encode(row)
    assert whole is not None
    assert example is not None
    assert sum(lengths(example)) == 80
    assert example.completion == whole.completion
    text = tokenizer.decode(example.prompt)
    assert text.startswith("<|start|>system\nS<|end|>\n<|start|>user\nBEGIN x")
    assert text.endswith("x END<|end|>\n<|start|>assistant\n")
    assert example.row.prompt == row.prompt
    answer_too_long = DataRow.pair("go", "went" * 20)
    assert Encoder(tokenizer, data(max_length=80)).encode(answer_too_long) is None


def test_the_oldest_turns_of_a_long_conversation_are_removed(tokenizer: Any) -> None:
    turns = [Turn("system", "S")]
    for number in range(5):
        turns += [Turn("user", f"question {number}"), Turn("assistant", f"answer {number}")]
    row = DataRow(tuple(turns))
    example = Encoder(tokenizer, data(max_length=100, loss_on="assistant")).encode(row)
    assert example is not None
    assert sum(lengths(example)) <= 100
    text = tokenizer.decode(example.tokens[0])
    assert text.startswith("<|start|>system\nS<|end|>\n<|start|>user\nquestion 3<|end|>")
    assert text.endswith("answer 4<|end|>")
    learned = [token for token, wanted in zip(*example.tokens, strict=True) if wanted]
    assert tokenizer.decode(learned) == "answer 3<|end|>answer 4<|end|>"


def test_other_ways_to_cut(tokenizer: Any) -> None:
    long = DataRow.pair("go", "went" * 20)
    cut = Encoder(tokenizer, data(max_length=60, truncate="completion")).encode(long)
    assert cut is not None
    assert sum(lengths(cut)) == len(cut.learned) == 60
    assert cut.completion[-1] != EOS
    assert Encoder(tokenizer, data(max_length=60, truncate="drop")).encode(long) is None
    text = DataRow((Turn("assistant", "word " * 30),), raw=True)
    example = Encoder(tokenizer, data(max_length=20)).encode(text)
    assert example is not None
    assert lengths(example) == (0, 20)


@pytest.mark.parametrize("family", ["llama3", "gemma", "mistral"])
def test_long_plain_text_is_cut_at_its_end_after_a_start_token(family: str) -> None:
    example = Encoder(families.tokenizer(family), data(max_length=20)).encode(
        DataRow((Turn("assistant", "word " * 60),), raw=True)
    )
    assert example is not None
    assert lengths(example) == (1, 19)


def test_rows_that_max_length_drops_or_cuts_are_counted(tokenizer: Any) -> None:
    short, long = DataRow.pair("a", "bc"), DataRow.pair("a", "b" * 60)
    limit = sum(lengths(Encoder(tokenizer, data()).encode(short)))
    messages: list[str] = []
    encoded = Encoder(tokenizer, data(max_length=limit), messages.append).encode_splits(splits(short, long))
    assert [example.row for example in encoded.train] == [short]
    assert f"data: 1 of 2 rows of train dropped: max_length = {limit} leaves no room for their answer" in messages
    messages.clear()
    cut = data(max_length=limit, truncate="completion")
    assert len(Encoder(tokenizer, cut, messages.append).encode_splits(splits(short, long)).train) == 2
    assert any("1 of 2 answers of train are cut short" in line for line in messages)
    with pytest.raises(
        UserError, match=r"leaves nothing to learn in all 2 rows of train. The longest prompt alone has"
    ):
        Encoder(tokenizer, data(max_length=3)).encode_splits(splits(short, long))


@pytest.mark.parametrize(
    ("loss_on", "expected"),
    [
        ("completion", "a2<|end|>"),
        ("assistant", "a1<|end|>a2<|end|>"),
        (
            "all",
            "user\nq1<|end|>\n<|start|>assistant\na1<|end|>\n<|start|>user\nq2<|end|>\n<|start|>assistant\na2<|end|>",
        ),
    ],
)
def test_what_the_loss_sees(loss_on: str, expected: str, tokenizer: Any) -> None:
    row = DataRow((Turn("user", "q1"), Turn("assistant", "a1"), Turn("user", "q2"), Turn("assistant", "a2")))
    example = Encoder(tokenizer, data(loss_on=loss_on)).encode(row)
    assert example is not None
    ids, learned = example.tokens
    assert tokenizer.decode([token for token, wanted in zip(ids, learned, strict=True) if wanted]) == expected
    assert not learned[0], "nothing predicts the first token"
    batch = pad_batch([example.tokens, row_tokens([5] * 80, [6, EOS])], PAD)
    assert batch["labels"][0][batch["labels"][0] != -100].tolist() == [
        t for t, w in zip(ids, learned, strict=True) if w
    ]


def test_rows_with_the_text_of_a_special_token_are_counted(tokenizer: Any) -> None:
    messages: list[str] = []
    rows = splits(DataRow.pair("a", "b"), DataRow.pair("say <|end|> now", "c", place="x.csv:3"))
    Encoder(tokenizer, data(), messages.append).encode_splits(rows)
    assert "1 of 2 rows of train contain the text of a special token" in messages[0]
    assert "(first: x.csv:3)" in messages[0]


def test_padding_on_the_left_changes_no_loss(tiny_model: Path, tokenizer: Any) -> None:
    """A row has the same loss alone and in a padded batch, and the model's own loss is the mean over all tokens."""
    from transformers import AutoModelForCausalLM

    from adapterzoo.evaluation.likelihood import likelihoods

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    pairs = [DataRow.pair("go", "went"), DataRow.pair("photograph", "photographed")]
    for loss_on in ("completion", "all"):
        encoder = Encoder(tokenizer, data(loss_on=loss_on))
        rows = [encoder.encode(pair).tokens for pair in pairs]  # type: ignore[union-attr]
        together = likelihoods(model, rows, PAD, 2)
        alone = likelihoods(model, rows, PAD, 1)
        assert [row.loss for row in together] == pytest.approx([row.loss for row in alone], rel=1e-5)
        assert [row[1:] for row in together] == [row[1:] for row in alone]
        by_hand = []
        for ids, learned in rows:
            labels = torch.tensor([[i if wanted else -100 for i, wanted in zip(ids, learned, strict=True)]])
            by_hand.append(model(torch.tensor([ids]), labels=labels).loss.item() * sum(learned))
        assert [row.loss for row in together] == pytest.approx(by_hand, rel=1e-5)
        assert [row.tokens for row in together] == [sum(learned) for _, learned in rows]
        own = model(**pad_batch(rows, PAD)).loss.item()
        assert own == pytest.approx(sum(by_hand) / sum(row.tokens for row in together), rel=1e-5)


def test_questions_that_were_cut_are_counted(tokenizer: Any) -> None:
    messages: list[str] = []
    rows = splits(DataRow.pair("x" * 100, "y"), DataRow.pair("x", "y"))
    Encoder(tokenizer, data(max_length=60), messages.append).encode_splits(rows)
    assert "data: 1 of 2 questions of train are cut to fit max_length = 60" in messages
