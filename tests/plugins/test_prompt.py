"""Compare learned prompts with plain PEFT on rows without padding, where PEFT is right."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench

from adapterzoo import Context
from adapterzoo.errors import AdapterzooError
from adapterzoo.methods.registry import registry

PROMPTS = ("prompt-tuning", "prefix-tuning", "p-tuning", "multitask-prompt-tuning")


def plain_peft(model: Any) -> Any:
    """Return the same adapter with PEFT's own forward pass."""
    from peft import PeftModelForCausalLM

    model.__class__ = PeftModelForCausalLM
    return model


@pytest.mark.parametrize("name", PROMPTS)
def test_loss_and_gradients_are_the_same_as_in_peft(name: str, write_recipe: Callable[..., Path]) -> None:
    bench = Bench(write_recipe(name))
    row = bench.prepared.encoded.train[0]
    ids = torch.tensor([row.prompt + row.completion])
    labels = torch.tensor([[-100] * len(row.prompt) + row.completion])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels}
    results = []
    for change in (lambda model: model, plain_peft):
        with bench.wrapped(name, bench.load("none")) as wrapped:
            model = change(wrapped)
            task = {"task_ids": torch.tensor([0])} if name.startswith("multitask") and change is plain_peft else {}
            loss = model(**inputs, **task).loss
            loss.backward()
            gradients = {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}
            results.append((loss.item(), gradients))
    (ours, our_gradients), (theirs, their_gradients) = results
    assert ours == pytest.approx(theirs, rel=1e-5)
    assert our_gradients.keys() == their_gradients.keys()
    for parameter, gradient in our_gradients.items():
        torch.testing.assert_close(gradient, their_gradients[parameter], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", PROMPTS)
def test_the_learned_tokens_differ_from_each_other(
    name: str, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """Tokens that are equal at the start get equal gradients, and stay equal."""
    bench = Bench(write_recipe(name))
    with bench.wrapped(name, bench.load("none")) as model:
        start = model.get_prompt_embedding_to_save("default")
        bench.train(name, model, tmp_path, learning_rate=1e-2)
        change = model.get_prompt_embedding_to_save("default") - start
    alike = change.mean(dim=0, keepdim=True)
    assert (change - alike).norm() > 0.1 * change.norm() > 0


@pytest.mark.parametrize("architecture", ["gpt_neox", "gpt2", "opt"])
def test_the_kit_has_a_model_without_groups_of_heads_for_a_prefix(architecture: str) -> None:
    """A number of such groups in its configuration, which it does not read, gave the prefix too few heads."""
    from adapterzoo.conformance.measure import logits
    from adapterzoo.conformance.models import rows, tiny_base

    method, context = registry()["prefix-tuning"], Context("none", total_steps=1, gradient_accumulation=1, seed=0)
    with tiny_base(architecture, "none").borrow() as model:
        assert logits(method.wrap(model, method.options(), context), rows()).isfinite().all()


@pytest.mark.parametrize("name", PROMPTS)
def test_the_saved_prompt_answers_the_same_in_plain_peft(
    name: str, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from peft import PeftModel

    bench = Bench(write_recipe(name))
    row = bench.prepared.encoded.test[0]
    ids = torch.tensor([row.prompt])
    with bench.wrapped(name, bench.load("none")) as model:
        bench.train(name, model, tmp_path / "checkpoints", learning_rate=1e-2)
        bench.method(name)[0].save(model, tmp_path / "adapter")
        model.eval()
        with torch.no_grad():
            ours = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    loaded = PeftModel.from_pretrained(bench.load("none").get_model(), tmp_path / "adapter")
    loaded.eval()
    task = {"task_ids": torch.tensor([0])} if name.startswith("multitask") else {}
    with torch.no_grad():
        theirs = loaded(input_ids=ids, attention_mask=torch.ones_like(ids), **task).logits[:, -ids.shape[1] :]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_gradient_checkpointing_would_drop_the_prompt_and_is_refused(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(write_recipe("prompt-tuning"), "train.gradient_checkpointing=true")
    with (
        bench.wrapped("prompt-tuning", bench.load("none")) as model,
        pytest.raises(AdapterzooError, match="gradient_checkpointing"),
    ):
        bench.train("prompt-tuning", model, tmp_path)
