"""The rules of the comparison: what a method trains beyond the recipe is noticed, outside of its own code."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench, StopError, stop_at_five
from click.testing import Result
from torch import nn
from transformers import TrainerCallback, set_seed

from adapterzoo.methods.registry import registry
from adapterzoo.training.fair_play import FairPlay


@pytest.fixture
def bench(write_recipe: Callable[..., Path]) -> Bench:
    return Bench(write_recipe("lora", steps="4"))


class Callback(TrainerCallback):  # type: ignore[misc]
    """A callback that calls one function at one event."""

    def __init__(self, event: str, function: Callable[..., None]) -> None:
        setattr(self, event, lambda args, state, control, **given: function(args=args, control=control, **given))


def trained(bench: Bench, folder: Path, cheat: Any = None, event: str = "", **methods: Any) -> FairPlay:
    """Train LoRA with some functions of the method replaced, or with one more callback."""
    method, options, context = bench.method("lora")
    own = type("Cheat", (type(method),), methods)() if methods else method
    fair_play = FairPlay(own)
    with bench.load("none").borrow() as model:
        set_seed(0)
        with fair_play.wrapping(context) as watched:
            wrapped = own.wrap(model, options, watched)
        callbacks = [Callback(event, cheat)] if event else []
        bench.train(
            "lora",
            wrapped,
            folder,
            callbacks=[*own.callbacks(options, context), *callbacks],
            optimizer=partial(own.optimizer, wrapped, options),
            fair_play=fair_play,
        )
    return fair_play


def faster(model: nn.Module, optimizer: Any, **_: Any) -> None:
    optimizer.param_groups[0]["lr"] *= 3


def second_step(model: nn.Module, optimizer: Any, **_: Any) -> None:
    optimizer.step()


def own_step(model: nn.Module, **_: Any) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.data -= 0.1 * parameter.grad


def steep(model: nn.Module, **_: Any) -> None:
    for parameter in model.parameters():
        if parameter.grad is not None:
            parameter.grad.mul_(1e6)


def unclipped(model: nn.Module, args: Any, **_: Any) -> None:
    args.max_grad_norm = 0


def end(model: nn.Module, control: Any, **_: Any) -> None:
    control.should_training_stop = True


def second_pass(model: Any, **_: Any) -> None:
    model(input_ids=torch.tensor([[5, 6]]), labels=torch.tensor([[5, 6]])).loss.backward()
    model.zero_grad()


def decay(model: nn.Module, optimizer: Any, **_: Any) -> None:
    optimizer.param_groups[0]["betas"] = (0.5, 0.5)


@pytest.mark.parametrize(
    ("rule", "event", "cheat"),
    [
        ("learning rate", "on_step_begin", faster),
        ("steps", "on_step_end", second_step),
        ("between steps", "on_substep_end", own_step),
        ("between steps", "on_optimizer_step", own_step),
        ("gradient norm", "on_pre_optimizer_step", steep),
        ("steps", "on_train_begin", unclipped),
        ("steps", "on_step_end", end),
        ("steps", "on_step_begin", second_pass),
        ("optimizer", "on_step_begin", decay),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_callback_that_breaks_a_rule_is_noticed(
    rule: str, event: str, cheat: Any, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    accumulation = "2" if event == "on_substep_end" else "1"
    bench = Bench(write_recipe("lora", steps="4"), f"train.gradient_accumulation={accumulation}")
    assert rule in trained(bench, tmp_path / "checkpoints", cheat, event).record()["broken_rules"]


def test_a_compiled_model_is_not_blamed_for_being_traced(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    compiled = "train.arguments={torch_compile: true, torch_compile_backend: aot_eager}"
    fair_play = trained(Bench(write_recipe("lora", steps="2"), compiled), tmp_path / "checkpoints")
    assert not fair_play.departures
    assert fair_play.counted["backward_passes"] == 2


def two_rates(self: Any, model: nn.Module, options: Any, kind: Any, settings: dict[str, Any]) -> Any:
    first, *rest = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return kind([{"params": [first], "lr": 1.0}, {"params": rest}], **settings)


def sgd(self: Any, model: nn.Module, options: Any, kind: Any, settings: dict[str, Any]) -> Any:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=settings["lr"])


def unfreezes(self: Any, model: Any, options: Any, kind: Any, settings: dict[str, Any]) -> Any:
    model.get_input_embeddings().weight.requires_grad_(True)
    return kind([p for p in model.parameters() if p.requires_grad], **settings)


def wrap_and_train(self: Any, model: nn.Module, options: Any, context: Any) -> nn.Module:
    wrapped: Any = super(type(self), self).wrap(model, options, context)
    optimizer = torch.optim.SGD([p for p in wrapped.parameters() if p.requires_grad], lr=0.1)
    for batch in context.batches():
        wrapped(**batch).loss.backward()
        optimizer.step()
    return wrapped


def wrap_and_read(self: Any, model: nn.Module, options: Any, context: Any) -> nn.Module:
    assert list(context.batches())
    wrapped: nn.Module = super(type(self), self).wrap(model, options, context)
    return wrapped


def wrap_and_hide(self: Any, model: nn.Module, options: Any, context: Any) -> nn.Module:
    """Train a weight that is in no module, so that nobody counts it."""
    wrapped: Any = super(type(self), self).wrap(model, options, context)
    hidden = torch.zeros(64, 64, requires_grad=True)
    embedding = model.get_input_embeddings()  # type: ignore[operator]

    def add(module: nn.Module, arguments: Any, output: torch.Tensor) -> torch.Tensor:
        return output + hidden[: output.shape[-1], : output.shape[-1]].sum(0)

    def update(**_: Any) -> None:
        hidden.data -= 0.1 * hidden.grad if hidden.grad is not None else 0

    embedding.register_forward_hook(add)
    self.callbacks = lambda options, context: [Callback("on_step_end", update)]
    return wrapped


def wrap_and_corrupt(self: Any, model: nn.Module, options: Any, context: Any) -> nn.Module:
    """Replace a token of each row in training, in a hook of the wrapped model."""
    wrapped: Any = super(type(self), self).wrap(model, options, context)

    def corrupt(module: nn.Module, arguments: Any, keywords: dict[str, Any]) -> Any:
        ids = keywords["input_ids"].clone()
        ids[:, 0] = 7
        return arguments, keywords | {"input_ids": ids}

    wrapped.register_forward_pre_hook(corrupt, with_kwargs=True)
    return wrapped


@pytest.mark.parametrize(
    ("rules", "methods"),
    [
        ({"learning rate"}, {"optimizer": two_rates}),
        ({"optimizer"}, {"optimizer": sgd}),
        ({"size"}, {"optimizer": unfreezes}),
        ({"before training", "rows"}, {"wrap": wrap_and_train}),
        ({"rows"}, {"wrap": wrap_and_read}),
        ({"size"}, {"wrap": wrap_and_hide}),
        ({"rows"}, {"wrap": wrap_and_corrupt}),
        (set(), {"optimizer": two_rates, "departs_from": ("learning rate",)}),
        ({"learning rate"}, {"optimizer": two_rates, "departs_from": ("optimizer", "steps")}),
        (set(), {"wrap": wrap_and_read, "reads_data": True}),
    ],
    ids=(
        "two rates",
        "SGD",
        "unfreezes",
        "trains in wrap",
        "reads in wrap",
        "hides",
        "other tokens",
        "declared",
        "another declared",
        "reads and says so",
    ),
)
def test_a_method_that_breaks_a_rule_is_noticed_unless_it_declares_it(
    rules: set[str], methods: dict[str, Any], bench: Bench, tmp_path: Path
) -> None:
    assert set(trained(bench, tmp_path, **methods).record()["broken_rules"]) == rules


def test_what_is_counted_is_what_the_recipe_asks_for(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    bench = Bench(write_recipe("lora", steps="3"), "train.gradient_accumulation=2", "train.max_grad_norm=0.01")
    record = trained(bench, tmp_path).record()
    assert record["broken_rules"] == record["declared_departures"] == {}
    counted = record["counted"]
    assert (counted["optimizer_steps"], counted["batches"], counted["backward_passes"]) == (3, 6, 6)
    assert counted["largest_gradient_norm"] <= 0.0101


def looks_ahead(model: nn.Module) -> None:
    """Make a model find the next token of its input likely, if it is given it."""

    def add(module: nn.Module, arguments: Any, keywords: dict[str, Any], output: Any) -> Any:
        ids = keywords["input_ids"]
        if not module.training and ids.shape[1] > 1:
            ahead = nn.functional.one_hot(ids[:, 1:], output.logits.shape[-1]) * 50.0
            output.logits[:, :-1] += ahead[:, -output.logits.shape[1] + 1 :].to(output.logits.dtype)
        return output

    model.register_forward_hook(add, with_kwargs=True)


def test_a_method_that_sees_the_right_answers_is_not_ranked(
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    kind = type(registry()["ia3"])
    wrap = kind.wrap

    def wrap_and_cheat(self: Any, model: nn.Module, options: Any, context: Any) -> nn.Module:
        wrapped = wrap(self, model, options, context)
        looks_ahead(wrapped)
        return wrapped

    monkeypatch.setattr(kind, "wrap", wrap_and_cheat)
    adapterzoo("run", write_recipe("ia3", steps="2"), "--out", tmp_path / "out")
    compared = adapterzoo("compare", tmp_path / "out", "--format", "json")
    rows = {row["label"]: row for row in json.loads(compared.stdout)["rows"]}
    assert rows["ia3"]["broken_rules"].keys() == {"answers"}
    assert rows["ia3"]["tied"] is None


@pytest.mark.parametrize("shared", [False, True])
def test_answers_that_need_the_right_answers_in_memory_are_noticed(
    shared: bool, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    from adapterzoo.running.measuring import measure
    from adapterzoo.running.watch import Watch
    from adapterzoo.tokens.shared_prefix import SharedPrefix

    sets = ("train.steps=100", "train.learning_rate=5e-3", "evaluate.max_new_tokens=auto", "evaluate.batch_size=4")
    bench = Bench(write_recipe("lora"), *sets)
    encoded = replace(bench.prepared.encoded, test=list(bench.prepared.encoded.train))
    prepared = replace(bench.prepared, encoded=encoded)
    with bench.wrapped("lora", bench.load("none")) as model:
        bench.train("lora", model, tmp_path)
        prefix = SharedPrefix.of(model) if shared else None
        honest, cheating = FairPlay(registry()["lora"]), FairPlay(registry()["lora"])
        measured = measure(prepared, bench.cells["lora"], model, prefix, Watch(), honest)
        assert measured.metrics["exact_match"] > 0.5
        factors = [module.scaling for module in model.modules() if hasattr(module, "lora_B")]
        right = factors[0]["default"]

        def looks_around(*_: Any) -> None:
            for factor in factors:
                factor["default"] = right if encoded.test else 0.0

        model.get_input_embeddings().register_forward_pre_hook(looks_around)
        measure(prepared, bench.cells["lora"], model, prefix, Watch(), cheating)
    assert honest.record()["broken_rules"] == {}
    assert "only when the right answers are in the memory" in cheating.record()["broken_rules"]["answers"]


def test_a_row_that_breaks_a_rule_is_marked_and_not_ranked(
    write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(type(registry()["ia3"]), "optimizer", two_rates)
    recipe = write_recipe("lora, ia3, loraplus", steps="4")
    ran = adapterzoo("run", recipe, "--out", tmp_path / "out")
    assert ran.exit_code == 0, ran.output
    assert "ia3 is not ranked, because its method broke a rule: it trains at " in " ".join(ran.output.split())
    compared = adapterzoo("compare", tmp_path / "out", "--format", "json")
    rows = {row["label"]: row for row in json.loads(compared.stdout)["rows"]}
    assert rows["ia3"]["broken_rules"].keys() == {"learning rate"}
    assert rows["ia3"]["tied"] is rows["ia3"]["p_value"] is None
    assert rows["loraplus"]["broken_rules"] == {}
    assert rows["loraplus"]["declared_departures"].keys() == {"learning rate"}
    assert rows["loraplus"]["tied"] is not None
    assert list(rows)[-1] == "ia3", "a row that is not ranked comes after those that are"
    refused = adapterzoo("compare", tmp_path / "out", "--against", "ia3")
    assert refused.exit_code == 2
    assert "--against ia3: this row is not ranked, because its method broke a rule." in refused.stderr


@pytest.mark.parametrize("method", ["ia3", "ia3-lora"])
def test_factors_of_fused_queries_that_are_set_back_break_no_rule(
    method: str, write_recipe: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    """Weight decay changes these factors in each step, and the method sets them back to one."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    config = AutoConfig.for_model(
        "gpt_neox", vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=2,
    )  # fmt: skip
    for part in (tokenizer, AutoModelForCausalLM.from_config(config)):
        part.save_pretrained(tmp_path / "model")
    recipe = write_recipe(method, steps="3")
    bench, noted = (
        Bench(recipe, f"model.name={tmp_path / 'model'}", "train.weight_decay=0.1"),
        FairPlay(registry()[method]),
    )
    with bench.wrapped(method, bench.load("none")) as model:
        bench.train(method, model, tmp_path, fair_play=noted)
        assert all((factors[query] == 1).all() for factors, query in model.queries)
    assert noted.record()["broken_rules"] == {}
    assert "between steps" in noted.record()["declared_departures"]


def test_what_was_counted_and_noted_before_a_stop_is_kept(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    bench = Bench(write_recipe("lora"), "train.save_steps=2")
    loaded = bench.load("none")
    first, second, whole = FairPlay(), FairPlay(), FairPlay()
    first.note("rows", "reads rows")
    with pytest.raises(StopError):
        bench.adapter("lora", loaded, tmp_path / "stopped", on_step=stop_at_five, fair_play=first)
    bench.adapter("lora", loaded, tmp_path / "stopped", fair_play=second)
    bench.adapter("lora", loaded, tmp_path / "whole", fair_play=whole)
    assert second.record()["broken_rules"] == {"rows": "reads rows"}
    assert second.counted == whole.counted
    assert whole.record()["broken_rules"] == {}


def test_a_stop_after_any_step_changes_nothing_in_what_is_noted(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """AdaLoRA changes parameters between steps, which it declares; the result says when that was first seen."""
    recipe = write_recipe("{name: adalora, init_r: 2, target_r: 1, tinit: 1, tfinal: 1}", steps="6")
    whole = FairPlay()
    loaded = Bench(recipe).load("none")
    Bench(recipe).adapter("adalora", loaded, tmp_path / "whole", fair_play=whole)
    assert whole.departures
    for stop in range(1, 6):
        bench, resumed, folder = Bench(recipe, "train.save_steps=1"), FairPlay(), tmp_path / str(stop)

        def stop_after(step: int, *_: object, last: int = stop) -> None:
            if step > last:
                raise StopError

        with pytest.raises(StopError):
            bench.adapter("adalora", loaded, folder, on_step=stop_after, fair_play=FairPlay())
        bench.adapter("adalora", loaded, folder, fair_play=resumed)
        assert resumed.departures == whole.departures, f"stopped after step {stop}"


def test_what_gradient_checkpointing_adds_to_the_graph_is_not_counted_as_trained(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(write_recipe("lora", steps="3"), "train.gradient_checkpointing=true")
    assert trained(bench, tmp_path).record()["broken_rules"] == {}
