"""Check that layers are gathered before they are needed, which changes no result and leaves no memory in use."""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import pytest
from cell_ranks import by_ranks

from adapterzoo.machine import ranks, settling

LAYERS = 4


@pytest.fixture(scope="module", autouse=True)
def imported() -> None:
    """Import what the ranks need before they are forked, once for all of them."""
    from transformers import LlamaForCausalLM  # noqa: F401

    from adapterzoo.model import divided  # noqa: F401


@contextmanager
def divided_llama() -> Iterator[tuple[Any, Any]]:
    """Divide a small Llama among the ranks; yield it and what divides it."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from adapterzoo.model.divided import Divided

    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=LAYERS, **sizes)).requires_grad_(False).eval()
    divided = Divided()
    with divided.used():
        divided.take(model)
        yield model, divided


def held(divided: Any) -> dict[int, int]:
    """Return the numbers of the layers that this rank holds whole, or that are on their way, and their bytes."""
    sizes = {number: sum(p.storage.nbytes() for p in unit) for number, unit in enumerate(divided._units)}
    return {number: size for number, size in sizes.items() if size}


@contextmanager
def counted() -> Iterator[Counter[str]]:
    """Count the layers that were gathered when they were needed, and those that were gathered ahead."""
    from adapterzoo.model.ahead import Ahead
    from adapterzoo.model.divided import Divided

    counts: Counter[str] = Counter()

    def counting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def called(*arguments: Any) -> Any:
            counts[name] += 1
            return function(*arguments)

        return called

    with (
        mock.patch.object(Divided, "_gather", counting("late", Divided._gather)),
        mock.patch.object(Ahead, "use", counting("ahead", Ahead.use)),
    ):
        yield counts


def train_and_answer(model: Any) -> Iterator[Any]:
    """Yield what three steps of training and an answer give; every rank has rows of its own."""
    import torch

    ids = torch.arange(3, 19)[None] + ranks.number()
    for _ in range(3):
        inputs = model.get_input_embeddings()(ids).requires_grad_(True)
        model(inputs_embeds=inputs, labels=ids).loss.backward()
        ranks.wait()
        yield inputs.grad
    with torch.no_grad():
        answer = model.generate(ids, max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0)
    yield answer
    ranks.wait()


def test_after_one_pass_layers_are_gathered_ahead_and_no_bit_is_different() -> None:
    import torch

    from adapterzoo.model.ahead import Ahead

    def found() -> dict[str, Any]:
        with divided_llama() as (model, _), counted() as counts:
            results, late = [], []
            for result in train_and_answer(model):
                results.append(result)
                late.append(counts["late"])
        with divided_llama() as (model, _), mock.patch.object(Ahead, "begin"):
            expected = list(train_and_answer(model))
        same = all(map(torch.equal, results, expected))
        return {"same": same, "late": late, "ahead": counts["ahead"]}

    for rank in by_ranks(found):
        assert rank["same"]
        first, second, third, answer = rank["late"]
        assert first == 2 * (LAYERS + 1), "each layer, on the way through and, but for the last one, back"
        assert second - first == 2, "only the way from one step to the next is not known yet"
        assert third == second
        assert answer - third <= 2, "an answer goes on where a step of training goes back"
        assert rank["ahead"] > 10 * LAYERS


def test_a_wrong_guess_costs_one_gather_and_leaves_no_memory() -> None:
    def found() -> list[Any]:
        with divided_llama() as (model, divided):
            first, second, third, other = (layer.mlp.up_proj.weight for layer in model.model.layers)
            for weight in (first, second, third, first, second):
                weight.sum()
            numbers = [divided.find(weight).unit for weight in (second, third, other)]
            guessed = list(held(divided)) == numbers[:2]
            with counted() as counts:
                other.sum()
            return [guessed, counts["late"], list(held(divided)) == numbers[2:]]

    assert by_ranks(found) == [[True, 1, True]] * 2


def test_ranks_that_read_and_change_in_any_order_see_the_right_content() -> None:
    """Each rank reads by chance; from time to time all ranks change the same weight, in one of three ways."""

    def found() -> tuple[bool, bool, bool]:
        import torch

        right, within, ahead = True, True, False
        with divided_llama() as (model, divided):
            weights = [p for p in model.parameters() if p.nbytes >= 1024]
            expected = [weight.clone() for weight in weights]
            two_largest = sum(sorted(sum(2 * len(p.part) for p in unit) for unit in divided._units)[-2:])
            own, common = random.Random(ranks.number()), random.Random(7)
            for round_number in range(15):
                for _ in range(own.randrange(12)):
                    # Mostly in order, so that guesses are right from time to time.
                    start = own.randrange(len(weights))
                    for index in range(start, min(start + 9, len(weights))):
                        right = right and torch.equal(weights[index], expected[index])
                        within = within and sum(held(divided).values()) <= two_largest
                        ahead = ahead or divided._ahead.number is not None
                ranks.wait()
                index = common.randrange(len(weights))
                if round_number % 3 == 0:
                    weights[index].mul_(2)
                    expected[index] *= 2
                elif round_number % 3 == 1:
                    weights[index].data = expected[index] + 1
                    expected[index] += 1
                else:
                    divided.rest()
                if ranks.number() == round_number % 2:
                    weights[(index + 9) % len(weights)].sum()  # the other rank still holds what it has changed
                ranks.wait()
        return right, within, ahead

    assert by_ranks(found) == [(True, True, True)] * 2


def test_what_is_trained_is_gathered_ahead_once_at_most() -> None:
    def found() -> list[Any]:
        with divided_llama() as (model, divided):
            weights = [layer.mlp.up_proj.weight for layer in model.model.layers]
            excluded = []
            for round_number in range(4):
                if round_number == 1:
                    weights[1].requires_grad_(True)
                for layer in model.model.layers:
                    layer.mlp.up_proj.weight.detach().sum()
                    layer.mlp.down_proj.weight.sum()
                excluded.append(len(divided._ahead._excluded))
            return excluded

    assert by_ranks(found) == [[0, 0, 1, 1]] * 2


def test_a_copy_of_what_is_on_its_way_has_the_content() -> None:
    def found() -> list[bool]:
        with divided_llama() as (model, divided):
            first, second = (layer.mlp.up_proj.weight for layer in model.model.layers[:2])
            expected = second.clone()
            for weight in (first, second, first):
                weight.sum()
            under_way = divided._ahead.number == divided.find(second).unit
            plain = second.data  # a parameter copies its data, a tensor its memory
            return [under_way, copy.deepcopy(plain).equal(expected), copy.deepcopy(second).equal(expected)]

    assert by_ranks(found) == [[True] * 3] * 2


def test_an_error_in_the_middle_leaves_nothing_on_its_way() -> None:
    def found() -> list[Any]:
        outcomes = list[Any]()
        try:
            with divided_llama() as (model, divided):
                weights = [layer.mlp.up_proj.weight for layer in model.model.layers]
                for weight in (*weights, *weights[:2]):
                    weight.sum()
                outcomes.append(divided._ahead.number is not None)
                raise ValueError("here")
        except ValueError:
            outcomes.append(divided._ahead.number is None and len(held(divided)) == 1)
        divided.rest()
        outcomes.append(not held(divided))
        with divided.used():
            outcomes.append(model.lm_head.weight.equal(model.lm_head.weight.clone()))
            ranks.wait()
        return outcomes

    assert by_ranks(found) == [[True] * 4] * 2


def test_an_error_of_one_rank_is_reported_while_a_layer_is_on_its_way() -> None:
    def fail() -> None:
        with divided_llama() as (model, divided):
            for _ in range(3):
                for layer in model.model.layers:
                    try:
                        layer.mlp.up_proj.weight.sum()
                    except RuntimeError as error:
                        settling.wait_if_lost(error)  # as a cell does, so that the rank with the error is known
                        raise
                    if ranks.number() == 1 and divided._ahead.number is not None:
                        raise ValueError("only here")

    with pytest.raises(AssertionError, match="only here"):
        by_ranks(fail)


def test_a_rank_may_have_thrown_away_what_others_still_expect() -> None:
    """A rank that has ended its cell takes the model apart while another still reads it."""

    def found() -> list[float]:
        with divided_llama() as (model, divided):
            weights = [layer.mlp.up_proj.weight for layer in model.model.layers]
            for _ in range(3):
                sums = [float(weight.sum()) for weight in weights]
            if ranks.number() == 1:
                divided.rest()
            again = [float(weight.sum()) for weight in weights]
            ranks.wait()
            return [a - b for a, b in zip(sums, again, strict=True)]

    for differences in by_ranks(found):
        assert not any(differences)
