"""Trained adapters put to use: asked on the base they were trained on, and merged into a plain model."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cells import Bench
from click.testing import Result

LEARN = ("--set", "train.learning_rate=1e-2", "--set", "evaluate.max_new_tokens=20")
PAD = ("--set", "model.padding_token=<|pad|>")


@pytest.mark.parametrize("extra", [(), PAD, ("--set", "data.chat_template=plain")])
def test_a_trained_adapter_answers_as_it_did_when_it_was_measured(
    extra: tuple[str, ...], write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    recipe = write_recipe("{name: lora, label: mine, r: 16}", steps="40")
    sets = (*LEARN, "--set", "data.system=Past tense.", *extra)
    assert adapterzoo("run", recipe, *sets, "--out", out).exit_code == 0
    lines = (out / "mine" / "seed-0" / "predictions.jsonl").read_text().splitlines()
    wanted = [json.loads(line) for line in lines]
    prompts = [part for line in wanted for part in ("--prompt", line["prompt"])]
    done = adapterzoo("generate", out, "--method", "mine", *prompts, "--max-new-tokens", "20")
    assert done.exit_code == 0, done.stderr
    assert done.stdout.splitlines() == [line["prediction"] for line in wanted]
    # Merged, plain transformers gives the same answers from the folder alone.
    merged = tmp_path / "merged"
    done = adapterzoo("merge", out, "-m", "lora", "--to", merged)
    assert done.exit_code == 0, done.stderr
    assert plain_answers(merged, wanted, out) == [line["prediction"] for line in wanted]
    again = adapterzoo("merge", out, "-m", "mine", "--to", merged)
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def plain_answers(folder: Path, wanted: list[dict[str, str]], out: Path) -> list[str]:
    """With transformers alone; the prompts as adapterzoo writes them."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from adapterzoo.adapters import question
    from adapterzoo.document import read
    from adapterzoo.recipe import Recipe
    from adapterzoo.tokens.encode import Encoder

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert model.get_input_embeddings().weight.shape[0] >= len(tokenizer)
    data = Recipe.model_validate(read(out / "recipe.yaml").data).data
    encoder = Encoder(tokenizer, data)
    answers = []
    for line in wanted:
        ids = torch.tensor([encoder.prompt(question(data, line["prompt"]))])
        output = model.generate(ids, max_new_tokens=20, do_sample=False, eos_token_id=2, pad_token_id=0)
        answers.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True).strip())
    return answers


def test_an_added_padding_token_has_room_and_disturbs_nothing(write_recipe: Callable[..., Path]) -> None:
    import torch

    plain, added = Bench(write_recipe("lora")), Bench(write_recipe("lora"), "model.padding_token=<|pad|>")
    tokenizer = added.prepared.encoded.tokenizer
    assert tokenizer.pad_token == "<|pad|>"
    assert added.prepared.encoded.pad_id == tokenizer.pad_token_id == 259 == added.prepared.vocabulary - 1
    first = plain.load("none").model
    from adapterzoo import base

    second = base.load(added.recipe.model, added.prepared.location, "none", 64, added.prepared.vocabulary).model
    assert second.get_input_embeddings().weight.shape[0] == 264, "a multiple of 8"
    assert second.config.vocab_size == 264
    ids = torch.tensor([added.prepared.encoded.test[0].prompt])
    with torch.no_grad():
        assert torch.equal(first(ids).logits, second(ids).logits[..., :259])
    assert added.prepared.base_parameters == sum(p.numel() for p in second.parameters())
    assert torch.equal(second.get_input_embeddings().weight[259], second.get_input_embeddings().weight[263])


def test_adapters_that_are_not_there(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    recipe = write_recipe("lora, {name: lora, label: big, r: 16}, prompt-tuning", steps="1", shots="0")
    assert adapterzoo("run", recipe, "--out", out).exit_code == 0
    for arguments, expected in (
        (("generate", out, "-m", "lroa", "--prompt", "x"), "Did you mean 'lora'"),
        (("generate", out, "-m", "lora", "--seed", "4", "--prompt", "x"), "'lora' was trained with: 0."),
        (("generate", tmp_path, "-m", "lora", "--prompt", "x"), "holds no results"),
        (("generate", out, "-m", "lora"), "there is nothing to ask"),
        (("merge", out, "-m", "prompt-tuning", "--to", tmp_path / "m"), "has nothing to merge into a model"),
        (("merge", out, "-m", "base", "--to", tmp_path / "m"), "has no such adapter"),
    ):
        done = adapterzoo(*arguments)
        assert done.exit_code == 2, (arguments, done.output)
        assert expected in " ".join(done.stderr.split())
        assert done.stdout == ""
    assert adapterzoo("generate", out, "-m", "big", "--prompt", "go", "--max-new-tokens", "2").exit_code == 0


def test_a_4_bit_adapter_is_asked_on_4_bits_and_merged_without(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert adapterzoo("run", write_recipe("qlora", steps="2"), "--out", out).exit_code == 0
    wanted = [json.loads(line) for line in (out / "qlora/seed-0/predictions.jsonl").read_text().splitlines()]
    prompts = [part for line in wanted for part in ("--prompt", line["prompt"])]
    done = adapterzoo("generate", out, "-m", "qlora", *prompts, "--max-new-tokens", "4")
    assert [line.strip() for line in done.stdout.split("\n")[:-1]] == [line["prediction"] for line in wanted]
    done = adapterzoo("merge", out, "-m", "qlora", "--to", tmp_path / "merged")
    assert done.exit_code == 0, done.stderr
    assert "merged without quantization" in done.stderr
    config = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert "quantization_config" not in config
