from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from adapterzoo.data import Row, Splits
from adapterzoo.encode import Encoder, pad_batch
from adapterzoo.errors import UserError
from adapterzoo.recipe import DataSection

EOS, PAD = 2, 0


@pytest.fixture
def tokenizer(tiny_model: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def data(**changes: Any) -> DataSection:
    return DataSection(**{"source": "x.csv", **changes})


def splits(*rows: Row) -> Splits:
    return Splits([*rows], [], [*rows], "fingerprint")


def test_the_completion_is_the_answer_and_the_end_token(tokenizer: Any) -> None:
    example = Encoder(tokenizer, data(system="Be brief.")).encode(Row("go", "went"))
    assert (
        tokenizer.decode(example.prompt)
        == "<|start|>system\nBe brief.<|end|>\n<|start|>user\ngo<|end|>\n<|start|>assistant\n"
    )
    assert tokenizer.decode(example.completion) == "went<|end|>"
    assert example.completion[-1] == EOS


def test_padding_is_not_the_end_token_and_never_in_the_loss_but_the_end_token_is(tokenizer: Any) -> None:
    assert tokenizer.pad_token_id == tokenizer.eos_token_id, "as in the bundled model"
    encoder = Encoder(tokenizer, data())
    encoded = encoder.encode_splits(splits(Row("go", "went"), Row("photograph", "photographed")))
    assert encoded.pad_id == PAD != EOS
    assert encoded.end_ids == [EOS]
    batch = pad_batch([(e.prompt, e.completion) for e in encoded.train], encoded.pad_id)
    kept = batch["logits_to_keep"]
    assert batch["labels"].shape == (2, kept)
    for i, example in enumerate(encoded.train):
        labels = batch["labels"][i]
        assert labels[labels != -100].tolist() == example.completion
        assert labels[-1] == EOS
        assert labels[0] == -100, "the first kept column only predicts"
        real = batch["attention_mask"][i].bool()
        assert batch["input_ids"][i][real].tolist() == example.prompt + example.completion
        assert batch["position_ids"][i][real].tolist() == list(range(len(example.prompt) + len(example.completion)))


def test_there_is_one_first_token(tokenizer: Any) -> None:
    """A template writes its own; a tokenizer that adds one must not add a second."""
    from tokenizers.processors import TemplateProcessing

    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|start|> $A", special_tokens=[("<|start|>", 1)]
    )
    assert tokenizer("x")["input_ids"][0] == 1
    example = Encoder(tokenizer, data()).encode(Row("go", "went"))
    assert example.prompt[:2].count(1) == 1
    assert 1 not in example.completion


def test_shots_are_turns_before_the_question(tokenizer: Any) -> None:
    ids = Encoder(tokenizer, data()).prompt(Row("go", "went"), [Row("eat", "ate")])
    text = "<|start|>user\neat<|end|>\n<|start|>assistant\nate<|end|>\n<|start|>user\ngo<|end|>\n<|start|>assistant\n"
    assert tokenizer.decode(ids) == text


def test_a_tokenizer_without_template_is_announced(tokenizer: Any) -> None:
    tokenizer.chat_template = None
    said: list[str] = []
    example = Encoder(tokenizer, data(system="S"), said.append).encode(Row("go", "went"))
    assert tokenizer.decode(example.prompt) == "S\n\ngo\n"
    assert tokenizer.decode(example.completion) == "went<|end|>"
    assert "no chat template" in said[0]


def test_what_max_length_cuts_is_counted_and_said(tokenizer: Any) -> None:
    short, middle, long = Row("a", "bc"), Row("a", "bcdefgh"), Row("a" * 30, "b")
    whole = Encoder(tokenizer, data()).encode(short)
    limit = len(whole.prompt) + len(whole.completion)
    said: list[str] = []
    encoded = Encoder(tokenizer, data(max_length=limit), said.append).encode_splits(splits(short, middle, long))
    assert [example.row for example in encoded.train] == [short, middle]
    assert encoded.train[0].completion[-1] == EOS
    assert encoded.train[1].completion[-1] != EOS
    assert any("1 of 3 rows of train dropped" in line for line in said)
    assert any("1 of 3 answers of train are cut short" in line for line in said)
    with pytest.raises(UserError, match="cuts the answer away in all 3 rows"):
        Encoder(tokenizer, data(max_length=3)).encode_splits(splits(short, middle, long))


def test_padding_on_the_left_changes_no_loss(tiny_model: Path, tokenizer: Any) -> None:
    """The loss of a row alone is its loss in a padded batch, and the model's own loss is the mean of both."""
    from transformers import AutoModelForCausalLM

    from adapterzoo.evaluate import completion_losses

    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    encoder = Encoder(tokenizer, data())
    pairs = [
        (e.prompt, e.completion)
        for e in (encoder.encode(Row("go", "went")), encoder.encode(Row("photograph", "photographed")))
    ]
    together = completion_losses(model, pairs, PAD, 2)
    assert together == pytest.approx(completion_losses(model, pairs, PAD, 1), rel=1e-5)
    by_hand = []
    for prompt, completion in pairs:
        labels = torch.tensor([[-100] * len(prompt) + completion])
        by_hand.append(model(torch.tensor([prompt + completion]), labels=labels).loss.item() * len(completion))
    assert together == pytest.approx(by_hand, rel=1e-5)
    own = model(**pad_batch(pairs, PAD)).loss.item()
    assert own == pytest.approx(sum(by_hand) / sum(len(c) for _, c in pairs), rel=1e-5)
