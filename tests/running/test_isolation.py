"""Check that a row depends on its method alone: whatever ran before, in any process, the adapter is the same."""

from __future__ import annotations

import gc
import json
import multiprocessing
import shutil
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from cells import Bench, StopError, assert_same, exit_code, stop_at_five
from click.testing import Result
from safetensors.torch import load_file
from tiny import METHODS


def adapter(out: Path, label: str) -> dict[str, object]:
    return load_file(out / label / "seed-0" / "adapter" / "adapter_model.safetensors")


# In nf4 the real model does the same, in tests/test_real.py.
@pytest.mark.parametrize("quantization", ["none"])
def test_in_any_order_each_adapter_is_that_of_a_fresh_process(
    quantization: str,
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    tmp_path: Path,
) -> None:
    setting = f"model.quantization={quantization}"
    for name, methods in (("forwards", METHODS), ("backwards", METHODS[::-1])):
        recipe = write_recipe(", ".join(methods), name=f"{name}.yaml", dtype="bfloat16")
        assert adapterzoo("run", recipe, "--set", setting, "--out", tmp_path / name).exit_code == 0

    # Each process is new: it comes from one that has imported the libraries and has done nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["adapterzoo.training.arguments", "datasets"])
    # Without the untouched base model's row, this cell is the first to use the base model.
    arguments = ("run", str(recipe), "--set", setting, "--set", "evaluate.base=false")
    alone = [(*arguments, "-m", label, "--out", str(tmp_path / "alone" / label)) for label in METHODS]
    with ProcessPoolExecutor(2, context, max_tasks_per_child=1) as pool:
        for label, code in zip(METHODS, pool.map(exit_code, alone), strict=True):
            assert code == 0, label
    for label in METHODS:
        expected = adapter(tmp_path / "alone" / label, label)
        assert_same(adapter(tmp_path / "forwards", label), expected)
        assert_same(adapter(tmp_path / "backwards", label), expected)


@pytest.mark.parametrize("quantization", ["none", "int8", "nf4"])
def test_evaluation_before_and_during_training_changes_nothing(
    quantization: str, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """With nf4, bitsandbytes repacks the weights in the first evaluation, which would spoil training silently."""
    from adapterzoo.evaluation.evaluate import evaluate

    recipe = write_recipe("lora", dtype="bfloat16", steps="8")
    bench = Bench(recipe)
    expected = bench.adapter("lora", bench.load(quantization), tmp_path / "without-evaluation")
    loaded = bench.load(quantization)
    with loaded.borrow() as model:
        before, *_ = evaluate(model, bench.prepared.encoded, bench.recipe.evaluate)
    assert_same(bench.adapter("lora", loaded, tmp_path / "after"), expected)
    with loaded.borrow() as model:
        assert evaluate(model, bench.prepared.encoded, bench.recipe.evaluate)[0] == before
    recipe.write_text(recipe.read_text().replace("  steps: 8\n", "  steps: 8\n  eval_steps: 3\n"))
    evaluating = Bench(recipe)
    with evaluating.wrapped("lora", loaded) as model:
        history = evaluating.train("lora", model, tmp_path / "during" / "checkpoints").history
        evaluating.method("lora")[0].save(model, tmp_path / "during" / "adapter")
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [3, 6, 8]
    assert_same(load_file(tmp_path / "during" / "adapter" / "adapter_model.safetensors"), expected)


def test_the_next_row_does_not_see_what_a_method_changed(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    """The methods change weights of the base model, read data first, replace layers, or change how it answers."""
    before = ("pissa", "full", "eva", "ln-tuning", "llama-adapter", "prompt-tuning", "poly", "lora-scratch", "hra")
    bench = Bench(write_recipe(f"lora, {', '.join(before)}", dtype="bfloat16", steps="3"))
    loaded = bench.load("none")
    alone = bench.adapter("lora", loaded, tmp_path / "alone")
    for label in before:
        with bench.wrapped(label, loaded) as model:
            bench.train(label, model, tmp_path / label)
        assert_same(bench.adapter("lora", loaded, tmp_path / f"after-{label}"), alone)


@pytest.mark.parametrize("label", ["lora", "ia3", "oft", "adalora"])
def test_a_training_that_was_stopped_resumes_and_ends_with_the_same_weights(
    label: str, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    recipe = write_recipe(label, steps="8")
    whole = Bench(recipe)
    loaded = whole.load("none")
    expected = whole.adapter(label, loaded, tmp_path / "whole")
    recipe.write_text(recipe.read_text().replace("  steps: 8\n", "  steps: 8\n  save_steps: 2\n"))
    bench = Bench(recipe)
    with pytest.raises(StopError):
        bench.adapter(label, loaded, tmp_path / "parts", on_step=stop_at_five)
    assert (tmp_path / "parts" / "checkpoints" / "checkpoint-4").is_dir()
    steps: list[int] = []
    resumed = bench.adapter(label, loaded, tmp_path / "parts", on_step=lambda step, *_: steps.append(step))
    assert steps[0] == (5 if bench.method(label)[0].resumes else 1)
    assert_same(resumed, expected)
    shutil.rmtree(tmp_path / "parts")


def test_what_a_method_changes_in_the_base_model_is_undone(write_recipe: Callable[..., Path]) -> None:
    import torch
    from torch import nn

    bench = Bench(write_recipe("lora"))
    loaded = bench.load("none")
    prompt = torch.tensor([bench.prepared.encoded.test[0].prompt])
    with torch.no_grad():
        before = loaded.get_model()(prompt).logits
    with loaded.borrow() as model, torch.no_grad():
        layer = model.model.layers[0]
        layer.mlp = nn.Identity()
        layer.self_attn.q_proj.weight.add_(1)
        layer.self_attn.k_proj.weight.requires_grad_(True)
        layer.register_forward_hook(lambda *_: None)
        model.forward = lambda *_, **__: None
        model.config.use_cache = False
        model.new = nn.Linear(1, 1)
        model.train()
    after = loaded.get_model()
    with torch.no_grad():
        assert after(prompt).logits.equal(before)
    assert not [p for p in after.parameters() if p.requires_grad]
    assert not after.training
    assert after.config.use_cache
    assert not hasattr(after, "new")
    assert not after.model.layers[0]._forward_hooks


def swap_rows(model: Any) -> None:
    weight = model.model.layers[0].mlp.up_proj.weight.data
    weight[[0, 1]] = weight[[1, 0]].clone()


def flip_rows(model: Any) -> None:
    weight = model.model.layers[0].mlp.up_proj.weight
    weight.data = weight.data.flip(0)


def roll_rows(model: Any) -> None:
    weight = model.model.layers[1].self_attn.q_proj.weight
    weight.data.copy_(weight.data.roll(1, 0))


def change_a_buffer(model: Any) -> None:
    frequencies = model.model.rotary_emb.inv_freq
    frequencies.copy_(frequencies.flip(0))


def replace_code_of_the_class(model: Any) -> None:
    kind = type(model.model.layers[0].mlp)
    kind.forward = lambda self, x: x * 0
    kind.left_behind = True  # as a patch does that must not be applied twice


def change_the_class(model: Any) -> None:
    from torch import nn

    mlp = model.model.layers[0].mlp
    mlp.__class__ = type("Silent", (nn.Module,), {"forward": lambda self, x: x * 0})


def change_the_settings(model: Any) -> None:
    model.generation_config.repetition_penalty = 5.0
    model.config.rms_norm_eps = 1.0
    model.model.layers[0].input_layernorm.variance_epsilon = 1.0


@pytest.mark.parametrize(
    "change",
    [swap_rows, flip_rows, roll_rows, change_a_buffer, replace_code_of_the_class, change_the_class,
     change_the_settings],
)  # fmt: skip
def test_no_cell_leaves_a_trace_in_what_a_forward_pass_reads(change: Any, write_recipe: Callable[..., Path]) -> None:
    """Swapped, flipped or rolled rows would not change a sum of the weights."""
    import torch

    bench = Bench(write_recipe("lora"))
    loaded = bench.load("none")
    prompt = torch.tensor([bench.prepared.encoded.test[0].prompt])
    with torch.no_grad():
        before = loaded.get_model()(prompt).logits
        with loaded.borrow() as model:
            change(model)
        assert loaded.get_model()(prompt).logits.equal(before)
    assert loaded.get_model().generation_config.repetition_penalty in (None, 1.0)
    assert not hasattr(type(loaded.get_model().model.layers[0].mlp), "left_behind")


@pytest.mark.parametrize(
    ("quantization", "change"),
    [
        ("int8", lambda layer: layer.state.SCB.mul_(2)),
        ("int8", lambda layer: setattr(layer.state, "SCB", layer.state.SCB * 2)),
        ("int8", lambda layer: layer.weight.data.neg_()),
        ("nf4", lambda layer: layer.weight.quant_state.absmax.add_(1)),
        ("nf4", lambda layer: setattr(layer.weight.quant_state, "absmax", layer.weight.quant_state.absmax.flip(0))),
        ("nf4", lambda layer: layer.weight.quant_state.state2.absmax.mul_(2)),
        ("nf4", lambda layer: layer.weight.quant_state.offset.add_(1)),
        ("nf4", lambda layer: layer.weight.data.copy_(layer.weight.data.flip(0))),
    ],
)  # fmt: skip
def test_no_cell_leaves_a_trace_in_what_quantized_layers_keep(
    quantization: str, change: Any, write_recipe: Callable[..., Path]
) -> None:
    import torch

    bench = Bench(write_recipe("lora", dtype="bfloat16"))
    loaded = bench.load(quantization)
    prompt = torch.tensor([bench.prepared.encoded.test[0].prompt])
    with torch.no_grad():
        before = loaded.get_model()(prompt).logits
        with loaded.borrow() as model:
            model(prompt)
        with loaded.borrow() as model:
            change(model.model.layers[0].mlp.up_proj)
            assert not model(prompt).logits.equal(before)
        assert loaded.get_model()(prompt).logits.equal(before)
    with loaded.borrow() as model:
        again = model
        model(prompt)
    assert loaded.get_model() is again, "a forward pass changes nothing, so the base model need not be loaded again"


def test_a_base_whose_files_changed_during_the_run_is_not_loaded_again(
    write_recipe: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import save_file

    from adapterzoo.errors import AdapterzooError

    folder = shutil.copytree(tiny_model, tmp_path / "model")
    bench = Bench(write_recipe("lora"), f"model.name={folder}")
    loaded = bench.load("none")
    weights = load_file(folder / "model.safetensors")
    with loaded.borrow() as model, torch.no_grad():
        model.model.norm.weight.add_(1)
        weights["model.norm.weight"] += 1
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(AdapterzooError, match="its files were changed during the run"), loaded.borrow():
        pass


def reachable(start: Any) -> list[Any]:
    """Return all objects that a function can reach through closures, defaults, owners and attributes."""
    reached: dict[int, Any] = {}
    waiting = [start]
    while waiting:
        thing = waiting.pop()
        if id(thing) in reached or isinstance(thing, type):
            continue
        reached[id(thing)] = thing
        for name in ("__self__", "func", "args", "keywords", "__wrapped__", "__defaults__", "__dict__"):
            waiting.append(getattr(thing, name, None))
        waiting += [cell.cell_contents for cell in getattr(thing, "__closure__", None) or ()]
        if isinstance(thing, dict):
            waiting += thing.values()
        elif isinstance(thing, (list, tuple, set)):
            waiting += thing
    return list(reached.values())


def test_a_method_reaches_the_training_rows_and_no_others(write_recipe: Callable[..., Path]) -> None:
    from array import array

    from adapterzoo.tokens.encoded import Encoded, Example

    bench = Bench(write_recipe("lora"))
    encoded = bench.prepared.encoded
    batches = bench.prepared.context(bench.cells["lora"]).batches
    rows = [
        [token for token, real in zip(ids, mask, strict=True) if real]
        for batch in batches()
        for ids, mask in zip(batch["input_ids"].tolist(), batch["attention_mask"].tolist(), strict=True)
    ]
    assert sorted(rows) == sorted(example.tokens[0] for example in encoded.train)
    things = reachable(batches)
    assert not [thing for thing in things if isinstance(thing, (Encoded, Example))]
    held = [list(array("i", thing)) for thing in things if isinstance(thing, bytes) and len(thing) % 4 == 0]
    assert not [example for example in (*encoded.test, *encoded.validation) if example.tokens[0] in held]
    for example in encoded.train:  # a method has copies, so it cannot change the rows for the next method
        assert not any(thing is example.prompt or thing is example.completion for thing in things)


def test_while_a_method_runs_no_object_of_the_process_is_a_test_row(
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    from adapterzoo.methods.registry import registry
    from adapterzoo.tokens.encoded import Example

    kind = type(registry()["ia3"])
    wrap = kind.wrap

    def examples() -> list[Example]:
        gc.unfreeze()  # get_objects() leaves out frozen objects
        return [thing for thing in gc.get_objects() if isinstance(thing, Example)]

    def looks_around(self: Any, model: Any, options: Any, context: Any) -> Any:
        found = {example.row.prompt for example in examples() if id(example) not in ids}
        if not next(model.parameters()).is_meta:
            (tmp_path / "found.json").write_text(json.dumps(sorted(found)))
        return wrap(self, model, options, context)

    monkeypatch.setattr(kind, "wrap", looks_around)
    recipe = write_recipe("ia3", steps="2")
    encoded: Any = Bench(recipe).prepared.encoded
    hidden = {example.row.prompt for example in (*encoded.test, *encoded.validation)}
    shown = {example.row.prompt for example in encoded.train}
    others = examples()  # other tests in this process hold rows of their own
    ids = {id(example) for example in others}
    assert adapterzoo("run", recipe, "--out", tmp_path / "out").exit_code == 0
    found = set(json.loads((tmp_path / "found.json").read_text()))
    assert shown <= found
    assert not found & hidden
