from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import task_runs
import torch
from cells import Bench

from adapterzoo.errors import UserError

SHORT = "{name: adalora, init_r: 8, target_r: 2, tinit: 1, tfinal: 2}"


def test_ranks_are_reduced_to_the_budget_and_moved_between_layers(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    bench = Bench(write_recipe(SHORT, steps="10"))
    with bench.wrapped("adalora", bench.load("none")) as model:
        bench.train("adalora", model, tmp_path)
        ranks = bench.method("adalora")[0].findings(model)["ranks"]
        kept = {name: int((p != 0).sum()) for name, p in model.named_parameters() if ".lora_E." in name}
    assert len(ranks) == 14
    assert sum(ranks.values()) == 2 * 14, "the average rank at the end is target_r"
    assert len(set(ranks.values())) > 1, "the layers have different ranks"
    assert sorted(kept.values()) == sorted(ranks.values()), "removed ranks stay zero in the last steps"


def test_the_regulariser_keeps_the_matrices_orthogonal(write_recipe: Callable[..., Path], tmp_path: Path) -> None:
    def unorthogonality(weight: float) -> float:
        recipe = write_recipe(SHORT.replace("}", f", orth_reg_weight: {weight}}}"), steps="10")
        bench = Bench(recipe)
        with bench.wrapped("adalora", bench.load("none")) as model:
            bench.train("adalora", model, tmp_path / str(weight), learning_rate=1e-2)
            gaps = [(p @ p.T - torch.eye(len(p))).norm().item() for n, p in model.named_parameters() if ".lora_A." in n]
        return sum(gaps) / len(gaps)

    assert unorthogonality(1.0) < 0.9 * unorthogonality(0.0)


def test_the_regulariser_counts_once_a_step_however_many_passes_it_has(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """PEFT adds the regulariser in each forward pass, and the trainer adds up the passes of a step."""

    def losses(batch_size: int, passes: int) -> list[float]:
        extra = f"  gradient_accumulation: {passes}\n"
        path = write_recipe("{name: adalora, orth_reg_weight: 1.0}", steps="5", batch_size=str(batch_size))
        path.write_text(
            path.read_text()
            .replace("evaluate:\n  batch_size: 8\n", "evaluate:\n")
            .replace("evaluate:", extra + "evaluate:")
        )
        bench = Bench(path)
        with bench.wrapped("adalora", bench.load("none")) as model:
            return [entry["loss"] for entry in bench.train("adalora", model, tmp_path).history]

    whole, parts = losses(8, 1), losses(4, 2)
    assert max(abs(a - b) / a for a, b in zip(whole, parts, strict=True)) < 1e-4


def test_the_regulariser_counts_the_same_in_the_last_step_of_an_epoch(
    write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """An epoch of 24 rows has two steps: the first has four batches of 5 rows, the second has one batch of 4 rows."""

    def losses(weight: float) -> list[float]:
        recipe = write_recipe(f"{{name: adalora, tinit: 0, tfinal: 0, orth_reg_weight: {weight}}}", steps="4")
        bench = Bench(recipe, "train.batch_size=5", "train.gradient_accumulation=4")
        assert len(bench.prepared.encoded.train) == 24
        with bench.wrapped("adalora", bench.load("none")) as model:
            trained = bench.train("adalora", model, tmp_path / str(weight), learning_rate=1e-8)
        return [entry["loss"] for entry in trained.history]

    first, *others = [whole - own for whole, own in zip(losses(1000.0), losses(0.0), strict=True)]
    assert first > 100
    assert others == pytest.approx([first] * 3, rel=1e-3)


def test_the_regulariser_is_divided_only_where_the_losses_of_a_step_are_added_up(
    write_recipe: Callable[..., Path], tiny_model: Path, tmp_path: Path
) -> None:
    """The trainer takes the mean of the losses that a task computes itself."""
    supervised = write_recipe("adalora")
    rows = [{"text": f"text {number}", "label": number % 2} for number in range(40)]
    (tmp_path / "classification").mkdir()
    classification = task_runs.write_recipe(tmp_path / "classification", tiny_model, rows, "classification", "adalora")
    for recipe, weight in ((supervised, 0.05), (classification, 0.1)):
        method, options, context = Bench(recipe, "train.gradient_accumulation=2").method("adalora")
        assert method.peft_config(None, options, context).orth_reg_weight == weight


@pytest.mark.parametrize(("steps", "tfinal"), [(5, 4), (1, 0)])
def test_a_schedule_without_a_step_to_measure_importance_is_an_error(
    steps: int, tfinal: int, write_recipe: Callable[..., Path]
) -> None:
    """PEFT would stop in the first step, with a KeyError."""
    with pytest.raises(UserError, match="leave none of the"):
        Bench(write_recipe(f"{{name: adalora, tinit: 0, tfinal: {tfinal}}}", steps=str(steps)))


def test_evaluation_leaves_the_regulariser_out(write_recipe: Callable[..., Path]) -> None:
    """Before training, AdaLoRA answers like the base and has the same loss."""
    from adapterzoo.evaluation.evaluate import evaluate

    bench = Bench(write_recipe("{name: adalora, orth_reg_weight: 1.0}"))
    loaded = bench.load("none")
    with loaded.borrow() as model:
        untouched, *_ = evaluate(model, bench.prepared.encoded, bench.recipe.evaluate)
    with bench.wrapped("adalora", loaded) as model:
        wrapped, *_ = evaluate(model, bench.prepared.encoded, bench.recipe.evaluate)
    assert wrapped == untouched
