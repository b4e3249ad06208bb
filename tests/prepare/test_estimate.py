"""Check what is computed without weights against what real training needs, and what real files hold."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench
from click.testing import Result
from mixtures import mixture
from tiny import RECIPE
from transformers import LlamaConfig, LlamaForCausalLM

from adapterzoo.errors import UserError
from adapterzoo.machine.counting import Counted
from adapterzoo.methods.calls import checked_wrap
from adapterzoo.methods.contract import Context
from adapterzoo.methods.registry import registry
from adapterzoo.model import base
from adapterzoo.prepare.estimate import Shape, estimates, needs_of, weights_of
from adapterzoo.prepare.needs import Needs, Weights, Work
from adapterzoo.prepare.traced import padded_batch
from adapterzoo.recipe.schema import ModelSection
from adapterzoo.running import room

METHODS = ("lora", "loha", "oft", "dora", "full", "prompt-tuning")
CONTEXT = Context(quantization="none", total_steps=10, gradient_accumulation=1, seed=0)


@pytest.fixture(scope="module")
def bench(tiny_model: Path, tiny_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    recipe = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    text = RECIPE.format(model=tiny_model, data=tiny_data, methods=", ".join(METHODS))
    recipe.write_text(text, encoding="utf-8")
    # The operations of a CPU's fused attention are not counted.
    return Bench(recipe, "train.share_prefix=never", "model.attention=eager")


@pytest.fixture(scope="module")
def found(bench: Bench) -> dict[str, Needs]:
    needs = estimates(bench.prepared)
    assert not [reason for reason in needs.values() if isinstance(reason, str)]
    return {label: value for label, value in needs.items() if isinstance(value, Needs)}


@pytest.mark.parametrize("label", METHODS)
def test_a_step_holds_and_computes_what_was_counted_without_weights(
    bench: Bench, found: dict[str, Needs], label: str
) -> None:
    encoded, size = bench.prepared.encoded, bench.recipe.train.batch_size
    rows = sorted(encoded.train, key=lambda row: int(row.size), reverse=True)[:size]
    with bench.wrapped(label, bench.load("none")) as model:
        model.train()
        assert found[label].trained == sum(p.numel() for p in model.parameters() if p.requires_grad)
        with Counted([*model.parameters(), *model.buffers()]) as counted:
            encoded.loss(model, encoded.collate(rows)).backward()
    assert found[label].step.bytes == pytest.approx(counted.peak, rel=0.1)
    assert found[label].step.operations == pytest.approx(counted.operations, rel=0.01)


def test_answers_hold_what_was_counted_without_weights(bench: Bench, found: dict[str, Needs]) -> None:
    longest = bench.prepared.encoded.joinable(bench.recipe.evaluate)
    assert longest is not None
    positions = max(longest.longest, bench.prepared.encoded.longest_shown)
    ids = torch.zeros(bench.recipe.evaluate.batch_size, positions, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, 0] = 0
    with bench.wrapped("lora", bench.load("none")) as model:
        model.eval()
        with torch.no_grad(), Counted([*model.parameters(), *model.buffers()]) as counted:
            model(input_ids=ids, attention_mask=mask, use_cache=True, logits_to_keep=1)
    assert found["lora"].measuring.bytes == pytest.approx(counted.peak, rel=0.1)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_weights_take_what_was_computed(quantization: str, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=512, hidden_size=512, intermediate_size=1024, num_hidden_layers=2, num_attention_heads=8
    )
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    loaded = base.load(ModelSection(name=str(tmp_path), dtype="bfloat16"), str(tmp_path), quantization, 64)
    assert weights_of(model, quantization, "bfloat16").bytes == pytest.approx(loaded.bytes, rel=0.05)


def test_divided_weights_are_a_part_of_all_and_the_two_largest_layers() -> None:
    with torch.device("meta"):
        model = LlamaForCausalLM(LlamaConfig(vocab_size=64, hidden_size=64, num_hidden_layers=2))
    whole, divided = (weights_of(model, "none", "bfloat16", parts).bytes for parts in (1, 4))
    assert divided == whole / 4 + 2 * sum(parameter.numel() for parameter in model.model.layers.parameters())


def test_an_adapter_has_the_bytes_that_were_computed(bench: Bench, found: dict[str, Needs], tmp_path: Path) -> None:
    """The numbers are exact; the names in the file's header come on top."""
    bench.adapter("lora", bench.load("none"), tmp_path)
    content = (tmp_path / "adapter" / "adapter_model.safetensors").read_bytes()
    (header,) = struct.unpack("<Q", content[:8])
    names = json.loads(content[8 : 8 + header])
    assert found["lora"].trained_bytes == len(content) - 8 - header
    assert header < 160 * len(names)
    assert room.BYTES_PER_ADAPTER_PARAMETER * found["lora"].trained == found["lora"].trained_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_mixture_of_experts_is_counted_in_any_dtype(dtype: torch.dtype) -> None:
    """torch's own product of groups knows no other dtype than bfloat16 without weights."""
    ids = torch.arange(4 * 48).view(4, 48) % 128
    with torch.device("meta"):
        skeleton = mixture("mixtral").to(dtype).requires_grad_(False)
    method: Any = registry()["lora"]
    shape = Shape({"input_ids": ids, "labels": ids}, 4, 48)
    found = needs_of(method, method.options(), CONTEXT, skeleton, weights_of(skeleton, "none", "float32"), shape, None)
    model = checked_wrap(method, mixture("mixtral").to(dtype).requires_grad_(False), method.options(), CONTEXT).train()
    with Counted([*model.parameters(), *model.buffers()]) as counted:
        model(input_ids=ids, labels=ids).loss.backward()
    assert found.step.bytes == pytest.approx(counted.peak, rel=0.15)
    assert found.step.operations >= counted.operations


def test_layers_can_be_added_to_the_count() -> None:
    """So a model of a hundred layers is counted with two and three of them."""
    two, three, six = (_of_layers(layers) for layers in (2, 3, 6))
    assert two.more_layers(three, 4, six.weights) == six


def test_checkpointing_holds_less_and_computes_more() -> None:
    plain, checkpointing = _of_layers(6), _of_layers(6, checkpointing=True)
    assert checkpointing.step.bytes < 0.7 * plain.step.bytes
    assert checkpointing.step.operations > 1.3 * plain.step.operations


def test_a_loss_that_looks_at_numbers_has_a_stand_in() -> None:
    """The losses of preferences and rewards choose tokens by what is in the batch."""

    def chosen(model: Any, arguments: dict[str, Any]) -> torch.Tensor:
        logits = model(input_ids=arguments["input_ids"], attention_mask=arguments["attention_mask"]).logits
        loss: torch.Tensor = logits[arguments["labels"].nonzero()].sum()
        return loss

    usual, stand_in = _of_layers(2), _of_layers(2, loss=chosen)
    assert stand_in.step.bytes == pytest.approx(usual.step.bytes, rel=0.3)


def _of_layers(layers: int, checkpointing: bool = False, loss: Any = None) -> Needs:
    config = LlamaConfig(
        vocab_size=300, hidden_size=64, intermediate_size=128, num_hidden_layers=layers, num_attention_heads=4
    )
    with torch.device("meta"):
        model = LlamaForCausalLM(config).requires_grad_(False)
    method: Any = registry()["lora"]
    shape = Shape(padded_batch(4, 64, 8), 4, 64, checkpointing)
    return needs_of(method, method.options(), CONTEXT, model, weights_of(model, "none", "float32"), shape, loss)


def test_a_model_is_divided_among_gpus() -> None:
    needs = Needs(Weights(100e9), 10**6, 4 * 10**6, Work(20e9, 1.0), Work(5e9, 1.0))
    assert needs.gpus(200e9, 0.9) == 1
    assert needs.gpus(80e9, 0.9) == 2
    with pytest.raises(UserError, match="gradient_checkpointing"):
        needs.gpus(20e9, 0.9)


def test_check_shows_computation_and_memory_and_says_what_is_not_known(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.prepare import traced

    quiet = ("--set", "evaluate.base=false", "--set", "evaluate.batch_size=1")
    printed = adapterzoo("check", write_recipe("lora"), *quiet).stdout
    (row,) = (line for line in printed.splitlines() if line.startswith("lora "))
    assert row.split()[-2].endswith("MFLOP")
    assert row.split()[-1].endswith("MB")

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("it looks at numbers")

    divided = adapterzoo("check", write_recipe("lora"), *quiet, "--set", "train.devices=2")
    (of_two,) = (line for line in divided.stdout.splitlines() if line.startswith("lora "))
    assert of_two.split()[-2] == row.split()[-2], "each computes a half"
    assert float(of_two.split()[-1][:-2]) < float(row.split()[-1][:-2])

    monkeypatch.setattr(traced, "training_step", fail)
    printed = adapterzoo("check", write_recipe("lora"), *quiet).stdout
    assert "? lora: only the memory of its weights and its optimizer is known (RuntimeError: it looks" in printed
