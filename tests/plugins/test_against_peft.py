"""Compare each plugin with a training loop in plain PEFT: same configuration, order of rows and seed, in float32."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench
from safetensors.torch import load_file
from tiny import METHODS

from adapterzoo.tasks.batches import shuffled_batches

ALL_LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


LORA_FAMILY: dict[str, dict[str, Any]] = {
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True, "lora_alpha": 16},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "lora-fa": {},
    "loraplus": {},
}
MORE_METHODS = ("vera", "boft", "llama-adapter", "ln-tuning")


def peft_config(label: str, steps: int) -> Any:
    """Return a configuration written by hand and not taken from the plugin, whose defaults are tested too."""
    import peft

    task = {"task_type": "CAUSAL_LM"}
    if label in LORA_FAMILY:
        settings = {"r": 8, "lora_alpha": 32, "target_modules": "all-linear", **LORA_FAMILY[label]}
        return peft.LoraConfig(**settings, **task)
    if label == "vera":
        return peft.VeraConfig(r=256, d_initial=0.1, target_modules=ALL_LINEAR, **task)
    if label == "boft":
        return peft.BOFTConfig(boft_block_size=4, target_modules=ALL_LINEAR, **task)
    if label == "llama-adapter":
        return peft.AdaptionPromptConfig(adapter_len=10, adapter_layers=2, **task)
    if label == "ln-tuning":
        norms = ["input_layernorm", "post_attention_layernorm", "norm"]
        return peft.LNTuningConfig(target_modules=norms, **task)
    if label in ("lora", "qlora"):
        return peft.LoraConfig(r=8, lora_alpha=32, target_modules="all-linear", **task)
    if label == "ia3":
        return peft.IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], **task
        )
    if label == "loha":
        return peft.LoHaConfig(r=4, alpha=16, target_modules=ALL_LINEAR, **task)
    if label == "lokr":
        return peft.LoKrConfig(r=32, alpha=64, decompose_factor=4, target_modules=ALL_LINEAR, **task)
    if label == "oft":
        return peft.OFTConfig(oft_block_size=32, target_modules="all-linear", **task)
    return peft.AdaLoraConfig(
        init_r=12, target_r=8, lora_alpha=32, orth_reg_weight=0.1, tinit=steps // 10, tfinal=steps * 4 // 10,
        total_step=steps, target_modules="all-linear", **task,
    )  # fmt: skip


def plain_loop(model: Any, bench: Bench, label: str, order: list[list[int]]) -> list[float]:
    """Train with a textbook loop (rows padded on the right, AdamW, linear warmup and decay), and return the losses."""
    import peft.optimizers

    settings, encoded = bench.recipe.train, bench.prepared.encoded
    steps = bench.prepared.steps
    rate = bench.cells[label].learning_rate
    if label == "lora-fa":
        optimizer = peft.optimizers.create_lorafa_optimizer(model, r=8, lora_alpha=32, lr=rate)
    elif label == "loraplus":
        groups = [
            {"params": [p for n, p in model.named_parameters() if "lora_A" in n]},
            {"params": [p for n, p in model.named_parameters() if "lora_B" in n], "lr": 16 * rate},
        ]
        optimizer = torch.optim.AdamW(groups, lr=rate, weight_decay=0.0)
    else:
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=rate, weight_decay=0.0)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    from transformers import get_linear_schedule_with_warmup

    schedule = get_linear_schedule_with_warmup(optimizer, -(-steps // 10), steps)
    losses = []
    model.train()
    for step, indices in enumerate(order, start=1):
        rows = [encoded.train[i] for i in indices]
        width = max(len(row.prompt) + len(row.completion) for row in rows)
        ids, labels, mask = [], [], []
        for row in rows:
            padding = width - len(row.prompt) - len(row.completion)
            ids.append([*row.prompt, *row.completion, *[0] * padding])
            labels.append([*[-100] * len(row.prompt), *row.completion, *[-100] * padding])
            mask.append([1] * (width - padding) + [0] * padding)
        loss = model(
            input_ids=torch.tensor(ids), attention_mask=torch.tensor(mask), labels=torch.tensor(labels)
        ).loss  # for AdaLoRA, PEFT adds the regulariser to it
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, settings.max_grad_norm)
        optimizer.step()
        if label == "adalora":
            model.base_model.update_and_allocate(step)
        schedule.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def recorded_training(bench: Bench, label: str, folder: Path) -> tuple[list[list[int]], list[float], Path]:
    """Train with adapterzoo; return the numbers of each step's rows, the losses and the adapter's folder."""
    from adapterzoo.tokens import encoded as module

    encoded, order = bench.prepared.encoded, []
    numbers = {tuple(example.tokens[0]): number for number, example in enumerate(encoded.train)}
    pad_batch = module.pad_batch

    def recording(rows: Any, pad_id: int) -> Any:
        order.append([numbers[tuple(ids)] for ids, _ in rows])
        return pad_batch(rows, pad_id)

    module.pad_batch = recording
    try:
        with bench.wrapped(label, bench.load("none")) as model:
            trained = bench.train(label, model, folder / "checkpoints")
            bench.method(label)[0].save(model, folder / "adapter")
    finally:
        module.pad_batch = pad_batch
    losses = [entry["loss"] for entry in trained.history]
    return order[: len(losses)], losses, folder / "adapter"


@pytest.mark.parametrize("label", [*METHODS, *LORA_FAMILY, *MORE_METHODS])
def test_training_gives_the_same_losses_and_weights_as_peft(
    label: str, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    import peft
    from transformers import AutoModelForCausalLM, set_seed

    bench = Bench(write_recipe(label, steps="12"))
    order, losses, folder = recorded_training(bench, label, tmp_path)
    base = AutoModelForCausalLM.from_pretrained(
        bench.prepared.location, dtype=torch.float32, attn_implementation="sdpa"
    )
    set_seed(0)
    model = peft.get_peft_model(base, peft_config(label, bench.prepared.steps))
    set_seed(0)
    expected = plain_loop(model, bench, label, order)
    assert losses == pytest.approx(expected, rel=1e-5)
    assert losses[-1] < losses[0]
    if label in ("pissa", "olora"):
        return  # these are saved in another form, which the test of loading compares
    # Compare the weights as well. For AdaLoRA these are the ranks that are left.
    model.save_pretrained(tmp_path / "peft")
    ours = load_file(folder / "adapter_model.safetensors")
    theirs = load_file(tmp_path / "peft" / "adapter_model.safetensors")
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(
            ours[name], theirs[name], rtol=1e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}"
        )


def test_all_methods_see_the_same_rows_in_the_same_order(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    bench = Bench(write_recipe(steps="8"))
    orders = {
        label: recorded_training(bench, label, tmp_path / label)[0] for label in ("lora", "ia3", "adalora", "oft")
    }
    assert len({str(order) for order in orders.values()}) == 1
    assert len({row for batch in orders["lora"][:6] for row in batch}) == 24, "an epoch repeats no row"


@pytest.mark.parametrize("label", [*METHODS, *LORA_FAMILY, *MORE_METHODS, "eva"])
def test_the_saved_adapter_loads_in_plain_peft(label: str, write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    bench = Bench(write_recipe(label, steps="12"))
    prompt = torch.tensor([bench.prepared.encoded.test[0].prompt])
    loaded = bench.load("none")
    with bench.wrapped(label, loaded) as model:
        bench.train(label, model, tmp_path / "checkpoints", learning_rate=1e-2)
        bench.method(label)[0].save(model, tmp_path / "adapter")
        model.eval()
        with torch.no_grad():
            trained = model(input_ids=prompt).logits
    base = AutoModelForCausalLM.from_pretrained(
        bench.prepared.location, dtype=torch.float32, attn_implementation="sdpa"
    )
    with torch.no_grad():
        untouched = base(input_ids=prompt).logits
        again = PeftModel.from_pretrained(base, tmp_path / "adapter")(input_ids=prompt).logits
    torch.testing.assert_close(again, trained, rtol=1e-5, atol=1e-5)
    assert (trained - untouched).abs().max() > 1e-2


def test_lora_from_scratch_is_lora(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """Starting from the same weights, both have the same loss and gradients; a saved adapter loads again."""
    bench = Bench(write_recipe("lora, lora-scratch"))
    batch = next(iter(bench.prepared.context(bench.cells["lora"]).batches()))
    torch.manual_seed(1)
    drawn: list[torch.Tensor] = []
    results = []
    for label in ("lora", "lora-scratch"):
        with bench.wrapped(label, bench.load("none")) as model:
            trained = [p for p in model.parameters() if p.requires_grad]
            drawn = drawn or [torch.randn_like(p) / 10 for p in trained]
            for parameter, value in zip(trained, drawn, strict=True):
                parameter.data.copy_(value)
            output = model(**batch)
            output.loss.backward()
            results.append((output.loss.item(), [p.grad for p in trained]))
            bench.method(label)[0].save(model, tmp_path / label)
            answer = output.logits.detach()
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-6)
    for theirs, ours in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    with bench.load("none").borrow() as model:
        method, options, context = bench.method("lora-scratch")
        loaded = method.load(model, tmp_path / "lora-scratch", options, context)
        torch.testing.assert_close(loaded(**batch).logits, answer)


def test_an_adapter_of_another_method_is_refused(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    from adapterzoo import AdapterzooError

    bench = Bench(write_recipe("lora, lora-scratch", steps="2"))
    _, _, folder = recorded_training(bench, "lora", tmp_path)
    method, options, context = bench.method("lora-scratch")
    with (
        bench.load("none").borrow() as model,
        pytest.raises(AdapterzooError, match="holds no adapter of 'lora-scratch'"),
    ):
        method.load(model, folder, options, context)


def test_eva_begins_with_the_directions_of_the_training_rows(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """A spans the main directions of a layer's inputs, so that it keeps more of them than a random A does."""
    bench = Bench(write_recipe("eva, lora"))
    batch = next(shuffled_batches(bench.prepared.sealed_rows, 8, 1)())
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "position_ids")}
    kept = {}
    for label in ("eva", "lora"):
        with bench.wrapped(label, bench.load("none")) as model:
            layer = model.base_model.model.model.layers[1].mlp.down_proj
            recorded: list[torch.Tensor] = []
            hook = layer.register_forward_pre_hook(lambda module, given, recorded=recorded: recorded.append(given[0]))
            with torch.no_grad():
                model(**inputs)
            hook.remove()
            vectors = recorded[0][inputs["attention_mask"].bool()]
            basis = torch.linalg.qr(layer.lora_A["default"].weight.T).Q
            kept[label] = ((vectors @ basis).norm() / vectors.norm()).item()
    assert kept["eva"] > 2 * kept["lora"]


def test_full_fine_tuning_gives_the_same_losses_and_weights_as_the_plain_loop(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    bench = Bench(write_recipe("full", steps="8"))
    order, losses, folder = recorded_training(bench, "full", tmp_path)
    model = AutoModelForCausalLM.from_pretrained(
        bench.prepared.location, dtype=torch.float32, attn_implementation="sdpa"
    )
    assert losses == pytest.approx(plain_loop(model, bench, "full", order), rel=1e-5)
    saved = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    for (name, theirs), ours in zip(model.named_parameters(), saved.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-5, msg=lambda m, name=name: f"{name}: {m}")
