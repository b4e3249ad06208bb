"""Measure adapterzoo's training step against the shortest handwritten loop that does the same, on the quickstart.

    OMP_NUM_THREADS=1 python bench/step.py

The loop has the same joined rows, the same loss on the answers alone, the same gradient clipping and the same
optimizer. It has no trainer, no logs and no callbacks. Both run in turns on one loaded model, and the ratio of their
times is reported.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent


def by_hand(model: Any, batches: list[dict[str, Any]], rate: float, done: Callable[[], None]) -> None:
    """Train one step on each batch, and call ``done`` after each."""
    import torch

    from adapterzoo.tokens.shared_prefix import model_arguments

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=rate, weight_decay=0.0)
    model.train()
    for batch in batches:
        model(**model_arguments(batch, model)).loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        done()


def main() -> None:
    """Print the seconds of a step in each round, and the median ratio with the lowest and the highest."""
    from adapterzoo import load_recipe
    from adapterzoo.machine import processes
    from adapterzoo.machine.memory import keep_freed_memory
    from adapterzoo.model import base
    from adapterzoo.prepare.prepare import prepare
    from adapterzoo.running.cell import adapt, train
    from adapterzoo.running.watch import Watch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", default="lora")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    processes.set_threads(1)
    keep_freed_memory()
    recipe = load_recipe(HERE.parent / "recipes" / "quickstart.yaml", (f"train.steps={given.steps}",))
    prepared = prepare(recipe, (given.method,))
    (cell,) = prepared.method_cells
    loaded = base.load(
        prepared.recipe.model, prepared.location, cell.quantization, recipe.data.max_length, prepared.encoded.form
    )
    examples, size = prepared.encoded.train, recipe.train.batch_size

    class Clock(Watch):
        """Records when each step ends. The time before the first one is not counted, because it is setup."""

        def __init__(self) -> None:
            self.times: list[float] = []

        def step(self, step: int = 0, steps: int = 0, loss: float = 0.0, tokens: int = 0) -> None:
            self.times.append(time.perf_counter())

        def seconds(self) -> float:
            return (self.times[-1] - self.times[0]) / (len(self.times) - 1)

    ratios = []
    for _ in range(given.rounds):
        step_seconds = {}
        for name in ("adapterzoo", "by hand"):
            with loaded.borrow() as model, tempfile.TemporaryDirectory() as folder:
                adapted = adapt(prepared, cell, model, Watch())
                groups = [examples[step * size : (step + 1) * size] for step in range(given.steps)]
                batches = [prepared.encoded.collate(group, adapted.prefix) for group in groups]
                clock = Clock()
                if name == "by hand":
                    by_hand(adapted.model, batches, 1e-4, clock.step)
                else:
                    train(prepared, cell, adapted, Path(folder), clock)
                step_seconds[name] = clock.seconds()
        ratios.append(step_seconds["adapterzoo"] / step_seconds["by hand"])
        print(", ".join(f"{name}: {seconds:.3f} s a step" for name, seconds in step_seconds.items()), flush=True)
    print(f"{given.method}: {median(ratios):.3f} times the loop by hand ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
