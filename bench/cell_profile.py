"""Say where the time of a cell of the quickstart goes, and how much of it would be left with matrix products alone.

    OMP_NUM_THREADS=1 python bench/cell_profile.py

Each part of the cell is timed, and then run once more under torch's profiler. Its matrix products with the base model's
weights are counted, and set against the best rate at which one thread of this machine computes such products.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench import operations_a_second

RECIPE = Path(__file__).resolve().parent.parent / "recipes" / "quickstart.yaml"
STEPS = 8
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
COPIES = ("aten::copy_", "aten::_to_copy", "aten::to", "aten::clone", "aten::contiguous")


@dataclass
class Part:
    """A part of a cell, measured."""

    name: str
    seconds: float
    operations: float
    """operations of matrix products with the base model's weights"""
    products: float
    """share of the profiled time in matrix products of any kind"""
    copies: float
    """share of the profiled time in copies, most of them to another dtype"""


class Counter:
    """Counts the operations of a model's products with its own weights in forward passes."""

    def __init__(self, model: Any) -> None:
        from adapterzoo.methods.targets import linear_layers

        head = model.get_output_embeddings()
        self.forward = 0.0
        layers = sum(layer.weight.numel() for layer in linear_layers(model).values())
        model.get_input_embeddings().register_forward_hook(partial(self._add, layers))
        head.register_forward_hook(partial(self._add, head.weight.numel()))

    def _add(self, weights: int, module: Any, given: tuple[Any, ...], output: Any) -> None:
        self.forward += 2.0 * weights * output.shape[:-1].numel()


def measured(name: str, counter: Counter, work: Callable[[], None], passes: int, repeated: float = 1.0) -> Part:
    """Return a part of a cell, run once for the time and once for the profile.

    Args:
        name: name of the part.
        counter: counts the operations of its forward passes.
        work: does the part.
        passes: number of passes with as many operations as the forward pass; training has the backward pass too.
        repeated: how often the cell does this.
    """
    from torch.profiler import ProfilerActivity, profile

    counter.forward, begun = 0.0, time.perf_counter()
    work()
    seconds, operations = time.perf_counter() - begun, counter.forward * passes
    with profile(activities=[ProfilerActivity.CPU]) as profiled:
        work()
    spent = {event.key: event.self_cpu_time_total for event in profiled.key_averages()}
    shares = [sum(spent.get(kind, 0.0) for kind in kinds) / sum(spent.values()) for kinds in (PRODUCTS, COPIES)]
    return Part(name, seconds * repeated, operations * repeated, *shares)


def main() -> None:
    """Print a table of the parts, and what share of the cell is outside of training, in fact and at the best rate."""
    from adapterzoo import load_recipe
    from adapterzoo.machine import processes
    from adapterzoo.machine.memory import keep_freed_memory
    from adapterzoo.model import base
    from adapterzoo.prepare.prepare import prepare
    from adapterzoo.running.cell import adapt, train
    from adapterzoo.running.measuring import measure, measure_general
    from adapterzoo.running.watch import Watch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="lora")
    given = parser.parse_args()
    best = operations_a_second()
    processes.set_threads(1)
    keep_freed_memory()
    whole, recipe = load_recipe(RECIPE), load_recipe(RECIPE, (f"train.steps={STEPS}",))
    prepared = prepare(recipe, (given.method,))
    (cell,), watch = prepared.method_cells, Watch()
    length, form = recipe.data.max_length, prepared.encoded.form
    loaded = base.load(prepared.recipe.model, prepared.location, cell.quantization, length, form)
    with loaded.borrow() as model, tempfile.TemporaryDirectory() as folder:
        counter = Counter(model)
        adapted = adapt(prepared, cell, model, watch)

        def train_again() -> None:
            with tempfile.TemporaryDirectory(dir=folder) as checkpoints:
                train(prepared, cell, adapted, Path(checkpoints), watch)

        train_again()  # the first step also does work that is done once
        parts = [
            measured("training", counter, train_again, 2, (whole.train.steps or STEPS) / STEPS),
            measured("measuring", counter, partial(measure, prepared, cell, adapted.model, adapted.prefix, watch), 1),
            measured("general text", counter, partial(measure_general, prepared, adapted.model), 1),
        ]
    print("| part | seconds | products with the base's weights, at the best rate | all products | copies |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for part in parts:
        least = part.operations / best
        print(f"| {part.name} | {part.seconds:.1f} | {least:.1f} | {part.products:.0%} | {part.copies:.0%} |")
    outside, least = (
        1 - amounts[0] / sum(amounts) for amounts in ([p.seconds for p in parts], [p.operations for p in parts])
    )
    print(f"\nOne thread does {best / 1e9:.0f} billion operations of a bfloat16 matrix product a second, at its best.")
    print(
        f"{outside:.0%} of the time is outside of training; of the products with the base's weights, {least:.0%} are."
    )


if __name__ == "__main__":
    main()
