"""Reinforcement: gradients are TRL's, answers with a higher reward are learned, and a bad reward is named."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from cells import Bench, assert_same
from click.testing import Result
from task_runs import WORDS, assert_refused, results, write_recipe

from adapterzoo import PluginError, Reward
from adapterzoo.rewards.contract import reward_of
from adapterzoo.rewards.registry import Rewards, rewards


def share_of_letters(answer: str, row: Mapping[str, str]) -> float:
    """Share of the answer's characters that are a wanted kind of letter."""
    wanted = str.isupper if row["case"] == "upper" else str.isalpha
    return sum(map(wanted, answer)) / max(len(answer), 1)


def hangs(caught: type[BaseException]) -> Callable[[str, Mapping[str, str]], float]:
    """Return a reward that hangs, and catches an error by which it is stopped."""

    def score(answer: str, row: Mapping[str, str]) -> float:
        try:
            time.sleep(60)
        except caught:
            return 1.0
        return 0.0

    return score


class Unprintable:
    def __repr__(self) -> str:
        raise ValueError


def leaves(answer: str, row: Mapping[str, str]) -> float:
    raise GeneratorExit


BAD: dict[str, tuple[Callable[[str, Mapping[str, str]], Any], str]] = {
    "raises": (lambda answer, row: 1 / 0, "raised ZeroDivisionError"),
    "leaves": (leaves, "raised GeneratorExit"),
    "nan": (lambda answer, row: float("nan"), "returned nan, not a finite number"),
    "none": (lambda answer, row: None, "returned None, not a finite number"),
    "huge": (lambda answer, row: 10**400, "returned 1000"),
    "several": (lambda answer, row: torch.ones(2), "returned tensor([1., 1.]), not a finite number"),
    "unprintable": (lambda answer, row: Unprintable(), "returned an object of type Unprintable"),
    "hangs": (hangs(Exception), "ran for more than 0.5 seconds"),
    "hides": (hangs(BaseException), "ran for more than 0.5 seconds"),
}


@pytest.fixture(autouse=True)
def letters(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, score in {"letters": share_of_letters, **{name: score for name, (score, _) in BAD.items()}}.items():
        monkeypatch.setitem(rewards()._items, name, Reward(name, score, "a test"))


def rows(count: int = 40, **more: Any) -> list[dict[str, Any]]:
    return [{"prompt": f"{WORDS[n % 10]} {n}", "case": "upper", **more} for n in range(count)]


@pytest.fixture
def recipe(tiny_model: Path, tmp_path: Path) -> Callable[..., Path]:
    def write(
        data: list[dict[str, Any]],
        options: str = "rewards: [letters]",
        methods: str = "lora",
        steps: int = 6,
        **keys: Any,
    ) -> Path:
        settings = {"max_new_tokens": 6, "answers": 6}
        more = [f"{name}: {value}" for name, value in settings.items() if name not in options]
        task = f"{{name: reinforcement, {', '.join([*more, options])}}}"
        return write_recipe(tmp_path, tiny_model, data, task, methods, steps, 80, **keys)

    return write


def test_better_answers_are_learned(
    recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    path = recipe(rows(), methods="lora, prompt-tuning", steps=25, train=", learning_rate: 2e-2")
    done = adapterzoo("run", path, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    found = results(tmp_path / "o", adapterzoo)
    assert found.keys() == {"lora", "prompt-tuning", "base"}
    assert found["lora"]["metrics"]["mean_reward"] > found["base"]["metrics"]["mean_reward"] + 0.3
    result = json.loads((tmp_path / "o" / "lora" / "seed-0" / "result.json").read_text())
    assert result["history"][-1]["loss"] < result["history"][0]["loss"] < 0, "it is the mean reward, negative"
    lines = (tmp_path / "o" / "lora" / "seed-0" / "predictions.jsonl").read_text().splitlines()
    line = json.loads(lines[0])
    assert line["mean_reward"] == share_of_letters(line["prediction"], {"case": "upper"}) == -line["loss"]
    asked = ("--method", "lora", "--prompt", line["prompt"], "--max-new-tokens", "6")
    assert adapterzoo("generate", tmp_path / "o", *asked).stdout.strip() == line["prediction"]


@pytest.mark.parametrize("loss", ["grpo", "dr_grpo", "rloo"])
def test_gradients_are_those_of_trl(
    loss: str, recipe: Callable[..., Path], tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    encoded = Bench(recipe(rows(12), f"rewards: [letters], loss: {loss}, temperature: 0.8")).prepared.encoded

    def load() -> Any:
        model = AutoModelForCausalLM.from_pretrained(tiny_model, attn_implementation="eager", dtype=torch.float32)
        peft = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear"))
        torch.manual_seed(0)
        for name, parameter in peft.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter.data, std=0.1)
        return peft

    ours = load().train()
    asked = encoded.train[:4]
    batch = encoded.sampled(encoded.collate(asked), ours, 3)
    assert ours.training
    value = encoded.loss(ours, encoded.arguments(batch, ours))
    value.backward()
    assert value.item() == pytest.approx(-batch["mean_reward"].item())

    answers = [
        ids[mask.bool()][-int((labels[1:] != -100).sum()) :].tolist()
        for ids, mask, labels in zip(batch["input_ids"], batch["attention_mask"], batch["labels"], strict=True)
    ]
    trainers, configs = {"rloo": RLOOTrainer}, {"rloo": RLOOConfig}
    own = {} if loss == "rloo" else {"loss_type": loss, "scale_rewards": "group" if loss == "grpo" else "none"}
    prompts = [encoded.tokenizer.decode(example.prompt) for example in asked for _ in range(6)]
    trainer = trainers.get(loss, GRPOTrainer)(
        model=load(),
        reward_funcs=lambda completions, **_: [share_of_letters(c.strip(), {"case": "upper"}) for c in completions],
        args=configs.get(loss, GRPOConfig)(
            output_dir=str(tmp_path / "trl"), per_device_train_batch_size=24, num_generations=6, beta=0.0,
            max_completion_length=6, temperature=0.8, use_cpu=True, bf16=False, report_to=[],
            gradient_checkpointing=False, **own,
        ),
        train_dataset=Dataset.from_list([{"prompt": prompt} for prompt in prompts]),
        processing_class=encoded.tokenizer,
    )  # fmt: skip
    monkeypatch.setattr(
        trainer, "_generate_single_turn", lambda *_, **__: answers if loss == "rloo" else (answers, None)
    )
    monkeypatch.setattr(trainer, "current_gradient_accumulation_steps", 1, raising=False)
    theirs = trainer.model.train()
    scored = trainer._generate_and_score_completions([{"prompt": prompt} for prompt in prompts])
    assert torch.allclose(scored["advantages"], batch["advantages"], atol=1e-5)
    trainer._compute_loss(theirs, scored).backward()
    wanted = dict(theirs.named_parameters())
    gradients = {name: parameter.grad for name, parameter in ours.named_parameters() if parameter.grad is not None}
    assert max(gradient.abs().max() for gradient in gradients.values()) > 1e-3
    for name, gradient in gradients.items():
        assert torch.allclose(gradient, wanted[name].grad, atol=1e-5), name


def test_joined_answers_have_the_gradients_of_padded_ones(
    recipe: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.model import base
    from adapterzoo.running.cell import adapt
    from adapterzoo.running.watch import Watch
    from adapterzoo.tokens.batches import pad_batch
    from adapterzoo.tokens.shared_prefix import SharedPrefix

    bench = Bench(recipe(rows(12)))
    encoded, gradients, sizes, drawn = bench.prepared.encoded, [], [], list[Any]()
    loaded = base.load(bench.recipe.model, bench.prepared.location, "none", 80, encoded.form)
    for joined in (True, False):
        if not joined:
            monkeypatch.setattr(SharedPrefix, "tree", lambda self, rows, pad_id: pad_batch(rows, pad_id))
        with loaded.borrow() as model:
            adapted = adapt(bench.prepared, bench.cells["lora"], model, Watch())
            assert adapted.prefix is not None
            torch.manual_seed(0)
            for name, parameter in adapted.model.named_parameters():
                if "lora_" in name:
                    torch.nn.init.normal_(parameter.data, std=0.1)
            drawn.append(encoded.sampled(encoded.collate(encoded.train[:4]), adapted.model, 3, None))
            batch = encoded.sampled(encoded.collate(encoded.train[:4]), adapted.model, 3, adapted.prefix)
            assert drawn[-1]["mean_reward"] == batch["mean_reward"], "padded and joined, it draws the same answers"
            assert drawn[-1]["labels"].max() == batch["labels"].max()
            sizes.append(batch["input_ids"].numel())
            encoded.loss(adapted.model, encoded.arguments(batch, adapted.model)).backward()
            gradients.append({n: p.grad.clone() for n, p in adapted.model.named_parameters() if p.grad is not None})
    assert sizes[0] < sizes[1] / 3
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-5) for name in gradients[0])
    assert max(gradient.abs().max() for gradient in gradients[0].values()) > 1e-3


def test_a_resumed_training_is_the_same(recipe: Callable[..., Path], tmp_path: Path) -> None:
    from cells import StopError, stop_at_five

    bench = Bench(recipe(rows(), train=", save_steps: 2"))
    loaded = bench.load("none")
    whole = bench.adapter("lora", loaded, tmp_path / "whole")
    with pytest.raises(StopError), bench.wrapped("lora", loaded) as model:
        bench.train("lora", model, tmp_path / "halves" / "checkpoints", on_step=stop_at_five)
    assert_same(whole, bench.adapter("lora", loaded, tmp_path / "halves"))


def test_metrics_are_rewards(recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    path = recipe(
        rows(answer="river"),
        "rewards: {chrf: 0.01, letters: 1}",
        steps=1,
        evaluate=", metrics: [exact_match, mean_reward]",
    )
    done = adapterzoo("run", path, "--out", tmp_path / "o")
    assert done.exit_code == 0, done.output
    assert list(results(tmp_path / "o", adapterzoo)["lora"]["metrics"]) == ["mean_reward", "exact_match"]
    assert reward_of(rewards()["exact_match"], "river", {"answer": "river"}, 1) == 1.0


@pytest.mark.parametrize("name", BAD)
def test_a_bad_reward_is_named_before_weights_are_loaded(
    name: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    path = recipe(rows(), f"rewards: [{name}], reward_seconds: 0.5")
    assert_refused(adapterzoo, path, f"reward '{name}' {BAD[name][1]}")


def test_rewards_cannot_change_what_training_draws(
    recipe: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def meddles(answer: str, row: Mapping[str, str]) -> float:
        torch.manual_seed(0)
        torch.set_grad_enabled(False)
        print("a reward says something")
        return share_of_letters(answer, row)

    monkeypatch.setitem(rewards()._items, "meddles", Reward("meddles", meddles, "a test"))
    found = []
    for name in ("letters", "meddles"):
        bench = Bench(recipe(rows(20), f"rewards: [{name}]", "{name: lora, lora_dropout: 0.5}", steps=3))
        found.append(bench.adapter("lora", bench.load("none"), tmp_path / name))
    assert_same(*found)
    assert "a reward says" not in capfd.readouterr().out


def test_a_reward_that_fails_in_training_is_named(
    recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails_later(answer: str, row: Mapping[str, str]) -> float:
        return 1 / 0 if answer else 0.0

    monkeypatch.setitem(rewards()._items, "later", Reward("later", fails_later, "a test"))
    done = adapterzoo("run", recipe(rows(), "rewards: [later]"), "--out", tmp_path / "o")
    assert done.exit_code != 0
    shown = " ".join(done.output.split())
    assert "reward 'later' raised ZeroDivisionError: division by zero" in shown
    assert "rows.jsonl:" in shown


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("rewards: [lettres]", "'lettres' is no known reward"),
        ("rewards: [exact_match]", "'exact_match' compares answers with the right ones, and"),
        ("rewards: [letters, letters]", "a reward is named twice"),
        ("rewards: []", "'rewards' is empty"),
        ("rewards: [letters], answers: 1", "answers"),
        ("rewards: [letters], max_new_tokens: 79", "leaves 1 tokens for a prompt of train"),
        ("rewards: [letters], max_new_tokens: 100", "21 more tokens are needed at least"),
        ("rewards: [[letters]]", "write a list of names, like [exact_match], or weights"),
        ("rewards: {letters: 0}", "all weights are 0"),
        ("rewards: {letters: .nan}", "finite number"),
    ],
)
def test_recipes_that_do_not_fit_are_refused(
    options: str, wanted: str, recipe: Callable[..., Path], adapterzoo: Callable[..., Result]
) -> None:
    assert_refused(adapterzoo, recipe(rows(), options), wanted)


def test_rewards_see_all_cells_as_they_are_written(recipe: Callable[..., Path]) -> None:
    data = [{"prompt": "a"}, *({"prompt": f"n {n}", "tests": [1, "a", 1.5], "case": None} for n in range(19))]
    path = recipe([{**row, "case": "any"} for row in data])
    cells = [dict(example.row.more) for example in Bench(path).prepared.encoded.train]
    assert {json.dumps(json.loads(str(row["tests"]))) for row in cells if row.get("tests")} == {'[1, "a", 1.5]'}


def test_prompts_may_be_conversations(recipe: Callable[..., Path], adapterzoo: Callable[..., Result]) -> None:
    talk = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes?"}]
    data = [{"prompt": [*talk, {"role": "user", "content": f"n {n}"}], "case": "any"} for n in range(20)]
    done = adapterzoo("preview", recipe(data))
    assert done.exit_code == 0, done.output
    assert "yes?" in done.output
    unanswered = [{"prompt": [*row["prompt"], talk[1]], "case": "any"} for row in data]
    assert_refused(adapterzoo, recipe(unanswered), "its prompt ends with the role 'assistant'")


def test_names_of_metrics_and_rewards_are_taken_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from third_party import plugin

    monkeypatch.syspath_prepend(tmp_path)
    body = (
        "from adapterzoo import Reward, hookimpl\n"
        "@hookimpl\ndef adapterzoo_rewards():\n    return [Reward('NAME', lambda answer, row: 1.0, 's')]\n"
    )
    points = [plugin(f"p{n}", tmp_path, body.replace("NAME", name)) for n, name in enumerate(("chrf", "mine"))]
    found = Rewards(points)
    assert "mine" in found
    assert "'chrf' is already the name of a reward or metric from adapterzoo" in found.broken[0].reason
    with pytest.raises(PluginError, match="a reward's name is 'Mine'"):
        Reward("Mine", lambda answer, row: 1.0)
