"""Rows joined in one sequence: they give the same losses and gradients as padded rows, or they are refused."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench, assert_same
from click.testing import Result
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModelForCausalLM

from adapterzoo.model.row_attention import ROW_LENGTHS, add_row_attention, has_row_attention
from adapterzoo.results.reading import read_result
from adapterzoo.results.result import RESULT
from adapterzoo.tokens.batches import Tokens, pad_batch
from adapterzoo.tokens.joining_check import reason_not_to_join, reason_not_to_train_joined
from adapterzoo.tokens.shared_prefix import (
    SharedPrefix,
    common_prefix,
    joined_batch,
    learned_logits,
    model_arguments,
)

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "initializer_range": 0.2, "bos_token_id": 1,
    "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip


def tiny_model_of(family: str, attention: str | None = None, **more: Any) -> Any:
    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, **more})
    model = AutoModelForCausalLM.from_config(config, attn_implementation=attention).eval()
    add_row_attention(model)
    return model


def rows(prefix: int, lengths: tuple[int, ...] = (5, 9, 4, 7), answer: int = 2) -> list[Tokens]:
    draw = random.Random(prefix)
    begins = [draw.randrange(3, 64) for _ in range(prefix)]
    ids = [[*begins, *(draw.randrange(3, 64) for _ in range(length))] for length in lengths]
    return [(row, [False] * (len(row) - answer) + [True] * answer) for row in ids]


def test_the_prefix_ends_before_the_token_that_predicts_a_learned_one() -> None:
    assert common_prefix([([5, 6, 7, 8], [False, False, True, True])] * 2) == 1
    assert common_prefix([([5, 6, 7, 8], [False, True, True, True])] * 2) == 0
    assert common_prefix([([5, 6, 7], [False] * 3), ([5, 7, 7], [False] * 3)]) == 1
    assert common_prefix([([5], [False])]) == 0


def test_each_token_sees_the_prefix_and_its_own_row() -> None:
    batch = joined_batch([([5, 6, 7, 8], [False, False, False, True]), ([5, 6, 9, 3, 4], [False] * 4 + [True])])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8, 9, 3, 4]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3, 2, 3, 4]]
    assert batch["visible"][0, 0].int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 0, 0, 1, 0, 0],
        [1, 1, 0, 0, 1, 1, 0],
        [1, 1, 0, 0, 1, 1, 1],
    ]
    assert batch["logits_to_keep"].tolist() == [2, 5]
    assert batch["labels"].tolist() == [[8, 4]]
    assert batch["attention_mask"].sum() == 9, "tokens of all rows"


@pytest.mark.parametrize(
    "family", ["llama", "qwen2", "qwen3", "mistral", "gemma", "gemma2", "phi3", "gpt_neox", "gpt2"]
)
@pytest.mark.parametrize("attention", ["eager", None])
@pytest.mark.parametrize("prefix", [0, 12])
@pytest.mark.parametrize("answer", [1, 3])
def test_losses_and_gradients_are_those_of_padded_rows(
    family: str, attention: str | None, prefix: int, answer: int
) -> None:
    """Joined rows are tried with a mask and row by row."""
    model = tiny_model_of(family, attention, attention_dropout=0.0, attn_pdrop=0.0, resid_pdrop=0.0, embd_pdrop=0.0)
    batch_rows = rows(prefix, answer=answer)
    assert has_row_attention(model)
    assert reason_not_to_join(model, batch_rows, 0, "none") is None
    expected = _loss_and_gradients(model, pad_batch(batch_rows, 0))
    for by_row in (False, True):
        loss, gradients, targets = _loss_and_gradients(model, joined_batch(batch_rows, by_row=by_row))
        assert targets == expected[2]
        assert loss == pytest.approx(expected[0], rel=1e-5)
        assert (gradients - expected[1]).norm() <= 1e-5 * expected[1].norm()


def _loss_and_gradients(model: Any, batch: dict[str, Any]) -> tuple[float, torch.Tensor, list[int]]:
    model.zero_grad()
    output = model(**model_arguments(batch, model))
    output.loss.backward()
    gradients = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.grad is not None])
    return output.loss.item(), gradients, learned_logits(output.logits, batch)[1].tolist()


def test_models_whose_rows_cannot_be_joined_are_refused() -> None:
    assert "batch" in str(reason_not_to_join(tiny_model_of("llama"), rows(8), 0, "int8"))
    mixture = tiny_model_of("mixtral", num_local_experts=2, output_router_logits=True)
    assert "router" in str(reason_not_to_join(mixture, rows(8), 0, "none"))
    assert reason_not_to_join(tiny_model_of("bloom", n_head=4, n_layer=2), rows(8), 0, "none"), (
        "positions come from its 2-D mask"
    )
    assert reason_not_to_join(tiny_model_of("mamba", state_size=4), rows(8), 0, "none"), (
        "a recurrent layer sees the row before"
    )


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("mistral", {"sliding_window": 14}),
        ("gemma2", {"sliding_window": 14}),
        ("gpt_neo", {"attention_types": [[["local", "global"], 1]], "num_layers": 2, "window_size": 60}),
        ("phi3", {"rope_parameters": {
            "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0] * 4, "long_factor": [2.0] * 4,
            "original_max_position_embeddings": 32,
        }}),
    ],
)  # fmt: skip
def test_models_that_depend_on_the_place_in_a_sequence_are_refused(family: str, settings: dict[str, Any]) -> None:
    """They are refused even if the tried rows give the same logits, because later rows may be longer."""
    short = rows(2, (4, 5, 6, 5))
    assert reason_not_to_join(tiny_model_of("mistral", sliding_window=64), short, 0, "none", longest=60) is None
    assert "its architecture" not in str(
        reason_not_to_join(tiny_model_of(family, **settings), short, 0, "none", longest=60)
    )
    assert reason_not_to_join(tiny_model_of(family, **settings), short, 0, "none", longest=60)


def test_settings_that_need_padded_rows_are_not_trained_with_joined_ones() -> None:
    assert "dropout" in str(reason_not_to_train_joined(tiny_model_of("gpt2", resid_pdrop=0.1), {}))
    assert "dropout" in str(reason_not_to_train_joined(tiny_model_of("llama", attention_dropout=0.1), {}))
    for name in ("label_smoothing_factor", "neftune_noise_alpha"):
        assert name in str(reason_not_to_train_joined(tiny_model_of("llama"), {name: 0.1}))
        assert reason_not_to_train_joined(tiny_model_of("llama"), {name: 0.0}) is None


def test_rows_are_given_in_the_form_that_costs_least() -> None:
    prefix = SharedPrefix(pair_cost=0.001, row_cost=4.0)
    uneven = [(ids * 40, learned * 40) for ids, learned in rows(0, (2, 8, 3, 5))]

    def form(batch_rows: list[Tokens], costs: SharedPrefix = prefix) -> str:
        batch = costs.batch(batch_rows, 0)
        return "padded" if ROW_LENGTHS not in batch else "mask" if "visible" in batch else "by row"

    assert form(rows(30)) == "mask"
    assert form(uneven) == "by row"
    assert form(rows(0, (8, 8, 8, 8))) == "padded", "rows of one length with nothing in common"
    assert form(uneven, SharedPrefix(pair_cost=0.01)) == "padded", (
        "the cost of attention grows with the square of the length"
    )


def test_a_long_uneven_batch_has_no_padding_and_no_large_mask() -> None:
    uneven = rows(3, (200, 20, 90, 40))
    batch = SharedPrefix(pair_cost=0.001, row_cost=4.0).batch(uneven, 0)
    assert batch["input_ids"].shape == (1, 3 + 350)
    assert batch[ROW_LENGTHS] == (3, 200, 20, 90, 40)
    assert max(tensor.numel() for tensor in batch.values() if isinstance(tensor, torch.Tensor)) < 400


def test_models_without_row_attention_still_have_their_rows_joined() -> None:
    """The attention of Falcon is not in transformers' registry."""
    model = tiny_model_of("falcon", num_kv_heads=2, new_decoder_architecture=True)
    assert not has_row_attention(model)
    assert SharedPrefix.of(model).row_cost is None


def test_joined_rows_give_the_results_of_padded_rows(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    """On a base model in float32 all results of a run are the same but for rounding."""
    from adapterzoo.comparison import compare

    # Use a long system message, because joining rows with a short prefix does not pay on such a tiny model.
    recipe = write_recipe("lora, ia3, p-tuning, pvera", max_length="256")
    system = "data.system=Give the past tense of the English verb that comes next, and say no more than that."
    for how in ("auto", "never"):
        done = adapterzoo("run", recipe, "--set", f"train.share_prefix={how}", "--set", system, "--out", tmp_path / how)
        assert done.exit_code == 0, done.output
        messages = [line for line in done.stderr.splitlines() if "computed for each row" in line]
        # In whatever order: the cells run side by side.
        labels = sorted(line.partition(":")[0] for line in messages)
        assert labels == (["p-tuning", "pvera"] if how == "auto" else [])
    auto, never = ({row.label: row for row in compare(tmp_path / how).rows} for how in ("auto", "never"))
    for label, row in never.items():
        for name, value in row.metrics.items():
            assert auto[label].metrics[name] == pytest.approx(value, rel=1e-4), (label, name)
    ratio = {
        how: read_result(tmp_path / how / "lora" / "seed-0" / RESULT).positions_per_token or 0.0
        for how in ("auto", "never")
    }
    assert 0 < ratio["auto"] < 0.8, "the common prefix is computed once for eight rows"
    assert 1 < ratio["never"] < 1.5, "padding adds positions"
    for label in ("lora", "ia3"):
        joined, expected = (
            load_file(tmp_path / how / label / "seed-0" / "adapter" / "adapter_model.safetensors")
            for how in ("auto", "never")
        )
        for name, tensor in expected.items():
            torch.testing.assert_close(joined[name], tensor, rtol=1e-3, atol=1e-5)
        assert auto[label].tokens_per_second is not None


@pytest.mark.parametrize("checkpointing", ["false", "true"])
def test_training_row_by_row_gives_the_adapter_of_padded_rows(
    write_recipe: Callable[..., Path], tmp_path: Path, checkpointing: str
) -> None:
    bench = Bench(write_recipe("lora"), f"train.gradient_checkpointing={checkpointing}")
    loaded = bench.load("none")
    no_mask = SharedPrefix(pair_cost=1e-9, row_cost=-1.0)  # makes row by row the cheapest form
    tokens = [example.tokens for example in bench.prepared.encoded.train[:8]]
    assert "visible" not in no_mask.batch(tokens, 0)
    assert ROW_LENGTHS in no_mask.batch(tokens, 0)
    joined = bench.adapter("lora", loaded, tmp_path / "joined", prefix=no_mask)
    expected = bench.adapter("lora", loaded, tmp_path / "padded")
    for name, tensor in expected.items():
        torch.testing.assert_close(joined[name], tensor, rtol=1e-3, atol=1e-5)


def test_label_smoothing_trains_on_padded_rows(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe = write_recipe("lora", max_length="256")
    sets = ["data.system=Give the past tense of the English verb that comes next, and say no more than that."]
    sets += ["train.arguments={label_smoothing_factor: 0.2}", "evaluate.base=false"]
    for how in ("auto", "never"):
        options = [word for value in (*sets, f"train.share_prefix={how}") for word in ("--set", value)]
        assert adapterzoo("run", recipe, *options, "--out", tmp_path / how).exit_code == 0
    name = "lora/seed-0/adapter/adapter_model.safetensors"
    assert_same(load_file(tmp_path / "auto" / name), load_file(tmp_path / "never" / name))


@pytest.mark.parametrize("method", ["lora", "prompt-tuning", "prefix-tuning", "adalora"])
def test_almost_no_label_smoothing_changes_no_loss(
    method: str, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    def first(*sets: str) -> float:
        bench = Bench(write_recipe(method, steps="2"), "train.share_prefix=never", *sets)
        with bench.wrapped(method, bench.load("none")) as model:
            loss: float = bench.train(method, model, tmp_path / str(len(sets))).history[0]["loss"]
            return loss

    assert first("train.arguments={label_smoothing_factor: 0.000001}") == pytest.approx(first(), rel=1e-3)


def test_training_continues_from_a_checkpoint_with_a_shared_prefix(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(write_recipe("lora"), "train.save_steps=2")
    loaded = bench.load("none")
    prefix = SharedPrefix.of(loaded.get_model())
    first = bench.adapter("lora", loaded, tmp_path / "a", prefix=prefix)
    again = bench.adapter("lora", loaded, tmp_path / "a", prefix=prefix)
    assert_same(first, again)
