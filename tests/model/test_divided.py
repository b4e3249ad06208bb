"""Check that processes that hold a part of each weight see whole weights, and that all changes of them are kept."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from cell_ranks import by_ranks

from adapterzoo.machine import ranks


def loaded(folder: Path, quantization: str = "none", **settings: Any) -> Any:
    from adapterzoo.model import base
    from adapterzoo.recipe.schema import ModelSection

    return base.load(ModelSection(name=str(folder), dtype="float32"), str(folder), quantization, 64, **settings)


def logits(model: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(torch.arange(3, 20)[None]).logits


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_a_divided_model_computes_what_a_whole_one_does(quantization: str, tiny_model: Path) -> None:
    expected = logits(loaded(tiny_model, quantization).get_model())

    def gap() -> tuple[float, bool]:
        base = loaded(tiny_model, quantization, divided=True)
        at_rest = sum(parameter.untyped_storage().nbytes() for parameter in base._model.parameters())
        with base.borrow() as model:
            return float((logits(model) - expected).abs().max()), at_rest < base.bytes / 50

    assert by_ranks(gap) == [(0, True)] * 2


def test_ranks_need_not_do_the_same(tiny_model: Path) -> None:
    """A rank that waits gives its parts to others that need more layers, or need them in another order."""
    expected = logits(loaded(tiny_model).get_model())

    def gaps() -> list[float]:
        base = loaded(tiny_model, divided=True)
        with base.borrow() as model:
            if ranks.number() == 1:
                model.model.layers[1].mlp.up_proj.weight.sum()
            found = [float((logits(model) - expected).abs().max()) for _ in range(1 + 2 * ranks.number())]
            ranks.wait()
            return found

    assert by_ranks(gaps) == [[0], [0, 0, 0]]


def test_what_changes_a_weight_is_kept_and_undone(tiny_model: Path) -> None:
    def found() -> list[Any]:
        base = loaded(tiny_model, divided=True)
        with base.borrow() as model:
            first, second = (layer.self_attn.q_proj.weight for layer in model.model.layers)
            before, other = first.clone(), second.clone()
            first.mul_(2)  # in place
            second.data = other + 1  # another content
            model.get_input_embeddings().weight.sum()  # another layer is put together
            kept = [first.equal(2 * before), second.equal(other + 1)]
            model.model.layers[1].self_attn.k_proj.weight.sum()
            model.get_input_embeddings().weight.sum()
            apart = [weight.untyped_storage().nbytes() == 0 for weight in (first, second)]
            kept += [first.equal(2 * before), second.equal(other + 1)]
        with base.borrow() as model:
            first, second = (layer.self_attn.q_proj.weight for layer in model.model.layers)
            return [*kept, *apart, first.equal(before), second.equal(other)]

    assert by_ranks(found) == [[True] * 8] * 2


def test_a_change_that_one_rank_holds_makes_all_load_the_model_again(tiny_model: Path) -> None:
    def reloaded() -> list[bool]:
        base = loaded(tiny_model, divided=True)
        with base.borrow() as model:
            embeddings = model.get_input_embeddings().weight
            before = embeddings.clone()
            embeddings[0].add_(1)  # rank 0 has this row
        changed = base.was_changed
        with base.borrow() as model:
            return [changed, model.get_input_embeddings().weight.equal(before)]

    assert by_ranks(reloaded) == [[True, True], [False, True]]


def test_what_is_trained_stays_whole(tiny_model: Path) -> None:
    import torch

    def sizes() -> list[bool]:
        base = loaded(tiny_model, divided=True)
        with base.borrow() as model:
            weight = model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
            ids = torch.arange(3, 20)[None]
            model(input_ids=ids, labels=ids).loss.backward()
            model.get_input_embeddings().weight.sum()
            trained = weight.untyped_storage().nbytes() >= weight.nbytes and weight.grad is not None
        return [trained, weight.untyped_storage().nbytes() == 0]

    assert by_ranks(sizes) == [[True, True]] * 2


def test_copies_have_the_content(tiny_model: Path) -> None:
    def copied() -> list[bool]:
        base = loaded(tiny_model, "nf4", divided=True)
        with base.borrow() as model:
            layer = model.model.layers[0].mlp.up_proj
            other = copy.deepcopy(model.get_input_embeddings())
            try:
                right = copy.deepcopy(layer).weight.data.equal(layer.weight.data)
            except RuntimeError as error:
                right = "its content was with other ranks" in str(error)
            return [other.weight.equal(model.get_input_embeddings().weight), right]

    assert by_ranks(copied) == [[True, True]] * 2


def test_a_divided_model_is_only_borrowed(tiny_model: Path) -> None:
    def refused() -> str:
        base = loaded(tiny_model, divided=True)
        try:
            base.get_model()
        except Exception as error:
            return str(error)
        return ""

    assert by_ranks(refused) == ["a divided base model can only be borrowed"] * 2
