"""Measure adapterzoo against the scripts that people write, run in turns in one session.

    python bench/bench.py quickstart --rounds 3 --out bench-out

Each contender trains the same seven methods on the same rows, with the same steps, batch size, precision and learning
rates, and measures the untouched model and the adapter in the same way. The time of each round is divided by the time
of adapterzoo in the same round. Machines are shared, so only such ratios mean anything.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from long_rows import write_rows

HERE = Path(__file__).resolve().parent
METHODS = ("lora", "qlora", "ia3", "loha", "lokr", "adalora", "oft")
MEMORY_INTERVAL_SECONDS = 0.5
RECIPES = {"quickstart": HERE.parent / "recipes" / "quickstart.yaml", "long": HERE / "long.yaml"}


@dataclass
class Contender:
    """One way to train and measure all methods."""

    name: str
    work: Callable[[Path], None]
    """function that trains and measures all methods and writes the results into a folder"""
    side_by_side: int
    """number of trainings that run at the same time"""


@dataclass
class Training:
    """The time and the tokens of training one method."""

    method: str
    seconds: float
    positions: float
    """number of positions that went through the model, padding included"""
    tokens: float
    """number of real tokens among them"""


@dataclass
class Round:
    """The time and the memory of one contender for all methods."""

    contender: str
    side_by_side: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """largest memory of all its processes together"""
    trainings: list[Training]

    @property
    def outside(self) -> float:
        """Return the share of the time of all side-by-side processes in which they did not train."""
        return 1 - sum(training.seconds for training in self.trainings) / self.seconds / self.side_by_side

    @property
    def positions_per_token(self) -> float:
        """Return how many positions were computed for each real token."""
        positions = sum(training.positions for training in self.trainings)
        return positions / sum(training.tokens for training in self.trainings)

    @property
    def positions_a_second(self) -> float | None:
        """Return how many positions a second all side-by-side processes compute while they train LoRA."""
        rates = [training.positions / training.seconds for training in self.trainings if training.method == "lora"]
        return rates[0] * self.side_by_side if rates else None


def read_trainings(folder: Path) -> list[Training]:
    """Return the trainings that a contender's result files describe."""
    trainings = []
    for path in sorted(folder.glob("**/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        name = result.get("label") or path.parent.name
        # Only adapterzoo writes this key. Its result of the untouched base has no value there and is passed over.
        if result.get("tokens_per_second"):
            tokens = result["tokens_per_second"] * result["train_seconds"]
            trainings.append(Training(name, result["train_seconds"], tokens * result["positions_per_token"], tokens))
        elif "positions" in result:
            trainings.append(Training(name, result["train_seconds"], result["positions"], result["tokens"]))
    return trainings


def operations_a_second() -> float:
    """Measure how many operations of a bfloat16 matrix product one thread of this machine does in a second, at best."""
    code = """if True:
        import time, torch
        torch.set_num_threads(1)
        left, right, best = torch.randn(512, 576).bfloat16(), torch.randn(576, 1536).bfloat16(), 0.0
        for _ in range(20):
            begun = time.perf_counter()
            for _ in range(20):
                left @ right
            best = max(best, 20 * 2 * 512 * 576 * 1536 / (time.perf_counter() - begun))
        print(best)"""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


def write_job(recipe: Path, overrides: Sequence[str], path: Path) -> int:
    """Write what the rival scripts need: the model's folder, the split rows, the steps and the learning rates.

    Returns:
        The number of parameters in the model's linear layers.
    """
    from adapterzoo import load_recipe
    from adapterzoo.data.split import load_splits
    from adapterzoo.methods.registry import registry
    from adapterzoo.methods.targets import linear_layers
    from adapterzoo.model import files as model_files
    from adapterzoo.model.config import load_config
    from adapterzoo.model.skeleton import skeleton as make_skeleton
    from adapterzoo.training.steps import in_steps

    checked = load_recipe(recipe, tuple(overrides))
    splits = load_splits(checked.data, lambda message: None)
    if (steps := checked.train.steps) is None:
        sys.exit("The scripts train a number of steps: give --set train.steps, not train.epochs.")

    def plain(rows: Sequence[Any]) -> list[dict[str, str]]:
        system = checked.data.system or ""
        return [{"system": system, "question": row.prompt, "answer": row.completion.strip()} for row in rows]

    location = model_files.locate(checked.model.name)
    skeleton = make_skeleton(checked.model, load_config(checked.model, location))
    job = {
        "model": location,
        "steps": steps,
        "warmup": in_steps(checked.train.warmup, steps),
        "quantization": checked.model.quantization,
        "plain": checked.data.chat_template == "plain",
        "batch_size": checked.train.batch_size,
        "max_length": checked.data.max_length,
        "rates": {name: registry()[name].learning_rate for name in METHODS},
        "train": plain(splits.train),
        "test": plain(splits.test),
    }
    path.write_text(json.dumps(job), encoding="utf-8")
    return sum(parameter.numel() for layer in linear_layers(skeleton).values() for parameter in layer.parameters())


class Memory(threading.Thread):
    """Measures the memory of all started processes together. Memory that they share is counted once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()
        self.peak = 0

    def run(self) -> None:
        """Measure the memory every MEMORY_INTERVAL_SECONDS, and keep the largest value."""
        while not self._done.wait(MEMORY_INTERVAL_SECONDS):
            now = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # the process may have ended
                    now += process.memory_full_info().pss
            self.peak = max(self.peak, now)

    def stop(self) -> int:
        """Stop measuring, and return the largest memory in bytes."""
        self._done.set()
        self.join()
        return self.peak


def measure(contender: Contender, folder: Path) -> Round:
    """Run a contender, and return the time and the memory of all processes that it starts."""
    before, begun, memory = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), Memory()
    memory.start()
    contender.work(folder)
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Round(contender.name, contender.side_by_side, seconds, spent, memory.stop(), read_trainings(folder))


def run(command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Start a command whose output goes to a file."""
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a command ends.

    Raises:
        SystemExit: the command failed.
    """
    if process.wait():
        sys.exit(f"{' '.join(map(str, process.args))} failed; see {log}")  # type: ignore[arg-type]


def run_script(script: str, methods: Sequence[str], options: Sequence[str], job: Path, out: Path, at_once: int) -> None:
    """Run a script once for each method, ``at_once`` at a time; if that is more than one, each is pinned to a core."""
    waiting, running = list(methods), dict[int, tuple[subprocess.Popen[bytes], Path]]()
    while waiting or running:
        for core in range(at_once):
            if core not in running and waiting:
                method = waiting.pop(0)
                folder = out / method
                folder.mkdir(parents=True)
                pinned = ["taskset", "-c", str(core)] if at_once > 1 else []
                threads = {"OMP_NUM_THREADS": "1"} if at_once > 1 else {}
                command = [*pinned, sys.executable, str(HERE / "rivals" / script), method, str(job)]
                log = folder / "log.txt"
                running[core] = (run([*command, "--out", str(folder), *options], log, **threads), log)
        for core, (process, log) in list(running.items()):
            if process.poll() is not None:
                finish(process, log)
                del running[core]
        time.sleep(0.1)


def contenders(recipe: Path, methods: Sequence[str], overrides: Sequence[str], job: Path) -> list[Contender]:
    """Return all contenders; adapterzoo comes first."""
    sets = [part for override in overrides for part in ("--set", override)]
    chosen = [part for method in methods for part in ("-m", method)]
    # The scripts measure neither examples in the prompt nor general text, so adapterzoo leaves them out as well.
    same_work = ["--set", "evaluate.shots=0", "--set", "evaluate.general_text=null"]

    def zoo(*options: str) -> Callable[[Path], None]:
        def work(out: Path) -> None:
            command = [sys.executable, "-m", "adapterzoo", "run", str(recipe), *chosen, *sets, *same_work, *options]
            out.mkdir(parents=True)
            finish(run([*command, "--out", str(out / "run")], out / "log.txt"), out / "log.txt")

        return work

    def script(name: str, *options: str, at_once: int = 1) -> Callable[[Path], None]:
        return lambda out: run_script(name, methods, options, job, out, at_once)

    cores = len(os.sched_getaffinity(0))
    return [
        Contender("adapterzoo", zoo(), cores),
        Contender("b: two at a time", script("trl_script.py", "--tuned", at_once=2), 2),
        Contender("b: TRL, tuned", script("trl_script.py", "--tuned"), 1),
        Contender("c: PEFT's manner", script("peft_suite.py"), 1),
        Contender("a: TRL, defaults", script("trl_script.py"), 1),
        Contender("adapterzoo --jobs 1", zoo("--jobs", "1", "--set", "threads=1"), 1),
    ]


def table(rounds: Sequence[Round], possible: float) -> str:
    """Return a markdown table: medians of the rounds, and the ratios to adapterzoo in the same round.

    Args:
        rounds: the rounds of all contenders.
        possible: the number of positions of LoRA's training that all cores could compute in a second if they did
            nothing but multiply matrices.
    """
    names = list(dict.fromkeys(result.contender for result in rounds))
    by_name = {name: [result for result in rounds if result.contender == name] for name in names}
    titles = ("contender", "seconds", "times adapterzoo's", "CPU seconds", "memory", "outside training")
    titles = (*titles, "positions a token", "of possible arithmetic")
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for name, results in by_name.items():
        pairs = zip(results, by_name[names[0]], strict=False)
        ratios = [result.seconds / adapterzoo.seconds for result, adapterzoo in pairs]
        rates = [rate for result in results if (rate := result.positions_a_second)]
        cells = (
            name,
            f"{median(result.seconds for result in results):.0f}",
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{median(result.cpu_seconds for result in results):.0f}",
            f"{median(result.peak_bytes for result in results) / 1e9:.1f} GB",
            f"{median(result.outside for result in results):.0%}",
            f"{median(result.positions_per_token for result in results):.2f}",
            f"{median(rates) / possible:.0%}" if rates else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the rounds, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", choices=sorted(RECIPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "-m", "--method", dest="methods", action="append", default=[], help="train only this method (repeatable)"
    )
    parser.add_argument("--only", action="append", default=[], help="rivals with this prefix (repeatable)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="like train.steps=20")
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    given.out.mkdir(parents=True, exist_ok=True)
    job, overrides = given.out / f"{given.rows}.json", ["model.dtype=bfloat16", *given.overrides]  # as in the scripts
    if given.rows == "long":
        rows = given.out.resolve() / "long.csv"
        write_rows(rows)
        overrides = [*overrides, f"data.source={rows}"]
    parameters = write_job(RECIPES[given.rows], overrides, job)
    adapterzoo, *others = contenders(RECIPES[given.rows], given.methods or METHODS, overrides, job)
    chosen = [rival for rival in others if not given.only or rival.name.startswith(tuple(given.only))]
    rounds: list[Round] = []
    operations = operations_a_second()
    for number in range(given.rounds):
        for contender in (adapterzoo, *chosen):
            folder = given.out / given.rows / f"round-{number}" / re.sub(r"\W+", "-", contender.name)
            shutil.rmtree(folder, ignore_errors=True)
            rounds.append(measure(contender, folder))
            print(f"round {number + 1}: {contender.name}: {rounds[-1].seconds:.0f} s", file=sys.stderr, flush=True)
            text = json.dumps([asdict(result) for result in rounds], indent=1)
            (given.out / f"{given.rows}-rounds.json").write_text(text, encoding="utf-8")
    # The forward pass and the backward pass to the inputs each do two operations for each parameter of a linear layer.
    print(table(rounds, operations * len(os.sched_getaffinity(0)) / (4 * parameters)))
    print(f"\nOne thread does {operations / 1e9:.0f} billion operations of a bfloat16 matrix product a second.")


if __name__ == "__main__":
    main()
