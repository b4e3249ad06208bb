"""Packed examples: packs are full, and no example sees another."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cells import Bench
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st

from adapterzoo.conformance.models import ARCHITECTURES, tiny_base
from adapterzoo.tokens.batches import pad_batch, row_tokens
from adapterzoo.tokens.packing import check_separate, pack, pack_batch

ROWS = [row_tokens([3 + n, 5, 7 + n, 11], [20 + n, *range(30, 30 + n), 2]) for n in range(5)]


@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=60), room=st.integers(20, 60))
def test_packs_hold_all_rows_and_none_is_too_long(lengths: list[int], room: int) -> None:
    rows = [row_tokens([n] * (length - 1), [n]) for n, length in enumerate(lengths)]
    packs = pack(rows, room)
    assert sorted(ids[0] for rows in packs for ids, _ in rows) == list(range(len(rows)))
    assert all(sum(len(ids) for ids, _ in rows) <= room for rows in packs)
    # The two shortest packs do not fit into one.
    sums = sorted(sum(len(ids) for ids, _ in rows) for rows in packs)
    assert len(sums) < 2 or sums[0] + sums[1] > room


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_packed_example_has_the_same_loss_as_alone(architecture: str) -> None:
    model = tiny_base(architecture, "none").get_model()
    model.eval()
    packs = pack(ROWS, 24)
    assert len(packs) < len(ROWS)
    batch = pack_batch(packs, 0)
    del batch["attention_mask"]
    tokens = sum(sum(learned) for _, learned in ROWS)
    with torch.no_grad():
        together = model(**batch).loss.item() * tokens
        alone = sum(model(**pad_batch([row], 0)).loss.item() * sum(row[1]) for row in ROWS)
    assert together == pytest.approx(alone, rel=1e-4)
    check_separate(model, packs, 0)


def test_a_model_that_mixes_packed_examples_is_refused() -> None:
    model = tiny_base("llama", "none").get_model()
    forward = type(model).forward

    class Mixing(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: torch.Tensor, **rest: object) -> object:
            return forward(self.model, input_ids=input_ids)  # without the positions, which show where examples start

    from adapterzoo.errors import AdapterzooError

    with pytest.raises(AdapterzooError, match=r"does not keep packed examples separate: set data.packing: false"):
        check_separate(Mixing(), [ROWS], 0)


def test_training_on_packed_rows(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    """The 24 training rows fit into fewer packs of 96 tokens, and two methods train on them."""
    bench = Bench(write_recipe("lora, lokr"), "data.packing=true", "data.max_length=96")
    packs = bench.prepared.encoded.packs
    assert 0 < len(packs) < len(bench.prepared.encoded.train) == 24
    recipe = write_recipe("lora, lokr", steps="3")
    sets = ("--set", "data.packing=true", "--set", "data.max_length=96", "--set", "train.batch_size=2")
    done = adapterzoo("run", recipe, *sets, "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    refused = adapterzoo("check", write_recipe("prompt-tuning"), *sets)
    assert refused.exit_code == 2
    assert "which is not possible for rows packed together" in refused.stderr
