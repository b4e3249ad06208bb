"""Measures adapterzoo against the scripts that people write, run alternately in one session.

    python bench/bench.py quickstart --rounds 3 --out bench-out

Each contender trains the same seven methods on the same rows, with the same steps, batch size, precision and rates,
and measures the untouched model and the adapter alike. What is compared is the time of each round to the time of
adapterzoo in the same round: machines are shared, and only ratios taken side by side mean anything.
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
MEMORY_SECONDS = 0.5
RECIPES = {"quickstart": HERE.parent / "recipes" / "quickstart.yaml", "long": HERE / "long.yaml"}


@dataclass
class Contender:
    """A way to have all methods trained and measured."""

    name: str
    work: Callable[[Path], None]
    """does it, into a folder"""
    side_by_side: int
    """how many trainings are under way at the same time"""


@dataclass
class Training:
    """What training one method took."""

    method: str
    seconds: float
    positions: float
    """that went through the model, padding too"""
    tokens: float


@dataclass
class Round:
    """What one contender took for all methods."""

    contender: str
    side_by_side: int
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """of all its processes together"""
    trainings: list[Training]

    @property
    def outside(self) -> float:
        """Return the share of the time, of as many processes as ran side by side, in which nothing was trained."""
        return 1 - sum(training.seconds for training in self.trainings) / self.seconds / self.side_by_side

    @property
    def positions_per_token(self) -> float:
        """Return how many positions were computed for each real token."""
        return sum(t.positions for t in self.trainings) / sum(t.tokens for t in self.trainings)

    @property
    def positions_a_second(self) -> float | None:
        """Return the positions that went through the model each second of LoRA's training, of all side by side."""
        rates = [training.positions / training.seconds for training in self.trainings if training.method == "lora"]
        return rates[0] * self.side_by_side if rates else None


def trainings(folder: Path) -> list[Training]:
    """Return what a contender's results say of its trainings."""
    found = []
    for path in sorted(folder.glob("**/result.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        name = result.get("label") or path.parent.name
        if result.get("tokens_per_second"):  # adapterzoo's, in which the untouched base is a result too
            tokens = result["tokens_per_second"] * result["train_seconds"]
            found.append(Training(name, result["train_seconds"], tokens * result["positions_per_token"], tokens))
        elif "positions" in result:
            found.append(Training(name, result["train_seconds"], result["positions"], result["tokens"]))
    return found


def operations_a_second() -> float:
    """Return how many operations of a matrix product one thread of this machine does in a second, at its best."""
    code = """if True:
        import time, torch
        torch.set_num_threads(1)
        one, two, best = torch.randn(512, 576).bfloat16(), torch.randn(576, 1536).bfloat16(), 0.0
        for _ in range(20):
            begun = time.perf_counter()
            for _ in range(20):
                one @ two
            best = max(best, 20 * 2 * 512 * 576 * 1536 / (time.perf_counter() - begun))
        print(best)"""
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True).stdout)


def write_job(recipe: Path, overrides: Sequence[str], path: Path) -> int:
    """Write what the rivals' scripts need: the model's folder, the rows as they are split, steps and rates.

    Returns:
        How many parameters the model's linear layers have.
    """
    from adapterzoo import load_recipe
    from adapterzoo.data.split import load_splits
    from adapterzoo.methods.layers import linear_layers
    from adapterzoo.methods.registry import registry
    from adapterzoo.model import files as model_files
    from adapterzoo.model import loading
    from adapterzoo.training.arguments import in_steps

    checked = load_recipe(recipe, tuple(overrides))
    splits = load_splits(checked.data, lambda message: None)
    steps = checked.train.steps or 0

    def plain(rows: Sequence[Any]) -> list[dict[str, str]]:
        system = checked.data.system or ""
        return [{"system": system, "question": row.prompt, "answer": row.completion.strip()} for row in rows]

    location = model_files.locate(checked.model.name)
    skeleton = loading.skeleton(checked.model, loading.load_config(checked.model, location))
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
    """Watches what all processes that were started have in memory together, pages that they share counted once."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._done = threading.Event()
        self.peak = 0

    def run(self) -> None:
        """Look every MEMORY_SECONDS."""
        while not self._done.wait(MEMORY_SECONDS):
            now = 0
            for process in psutil.Process().children(recursive=True):
                with suppress(psutil.Error):  # it has ended
                    now += process.memory_full_info().pss
            self.peak = max(self.peak, now)

    def stop(self) -> int:
        """Return the bytes at the peak."""
        self._done.set()
        self.join()
        return self.peak


def measured(contender: Contender, folder: Path) -> Round:
    """Return what a contender took, with all processes that it has started."""
    before, begun, memory = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), Memory()
    memory.start()
    contender.work(folder)
    seconds, after = time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Round(contender.name, contender.side_by_side, seconds, spent, memory.stop(), trainings(folder))


def run(command: Sequence[str], log: Path, **environment: str) -> subprocess.Popen[bytes]:
    """Begin a command whose output goes to a file."""
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **environment})


def finish(process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait for a command's end.

    Raises:
        SystemExit: it failed.
    """
    if process.wait():
        sys.exit(f"{' '.join(map(str, process.args))} failed; see {log}")  # type: ignore[arg-type]


def one_by_one(script: str, methods: Sequence[str], options: Sequence[str], job: Path, out: Path, at_once: int) -> None:
    """Run a script for each method, so many at a time; two or more each pinned to a core of its own."""
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
    """Return how each contender does all methods; adapterzoo comes first."""
    sets = [part for override in overrides for part in ("--set", override)]
    chosen = [part for method in methods for part in ("-m", method)]
    # The scripts measure neither examples in the prompt nor general text.
    alike = ["--set", "evaluate.shots=0", "--set", "evaluate.general_text=null"]

    def zoo(*options: str) -> Callable[[Path], None]:
        def work(out: Path) -> None:
            command = [sys.executable, "-m", "adapterzoo", "run", str(recipe), *chosen, *sets, *alike, *options]
            out.mkdir(parents=True)
            finish(run([*command, "--out", str(out / "run")], out / "log.txt"), out / "log.txt")

        return work

    def script(name: str, *options: str, at_once: int = 1) -> Callable[[Path], None]:
        return lambda out: one_by_one(name, methods, options, job, out, at_once)

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
    """Return the rounds as a markdown table: medians, and ratios to adapterzoo's of the same round with their spread.

    Args:
        rounds: of all contenders.
        possible: how many positions of LoRA's training all cores could compute in a second, if they did nothing but
            multiply matrices.
    """
    names = list(dict.fromkeys(one.contender for one in rounds))
    by_name = {name: [one for one in rounds if one.contender == name] for name in names}
    titles = ("contender", "seconds", "times adapterzoo's", "CPU seconds", "memory", "outside training")
    titles = (*titles, "positions a token", "of possible arithmetic")
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for name, mine in by_name.items():
        ratios = [other.seconds / own.seconds for other, own in zip(mine, by_name[names[0]], strict=False)]
        rates = [rate for one in mine if (rate := one.positions_a_second)]
        cells = (
            name,
            f"{median(one.seconds for one in mine):.0f}",
            f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})",
            f"{median(one.cpu_seconds for one in mine):.0f}",
            f"{median(one.peak_bytes for one in mine) / 1e9:.1f} GB",
            f"{median(one.outside for one in mine):.0%}",
            f"{median(one.positions_per_token for one in mine):.2f}",
            f"{median(rates) / possible:.0%}" if rates else "",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Run the bench, and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", choices=sorted(RECIPES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("-m", "--method", dest="methods", action="append", default=[], help="only this (repeatable)")
    parser.add_argument("--only", action="append", default=[], help="begins like the name of a contender (repeatable)")
    parser.add_argument("--set", dest="overrides", action="append", default=[], help="like train.steps=20")
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    given = parser.parse_args()
    os.environ["HF_HUB_OFFLINE"] = "1"
    given.out.mkdir(parents=True, exist_ok=True)
    job, overrides = given.out / f"{given.rows}.json", given.overrides
    if given.rows == "long":
        rows = given.out.resolve() / "long.csv"
        write_rows(rows)
        overrides = [*overrides, f"data.source={rows}"]
    parameters = write_job(RECIPES[given.rows], overrides, job)
    every = contenders(RECIPES[given.rows], given.methods or METHODS, overrides, job)
    chosen = [one for one in every if not given.only or one.name.startswith(tuple(given.only))]
    rounds: list[Round] = []
    operations = operations_a_second()
    for number in range(given.rounds):
        for contender in chosen:
            folder = given.out / given.rows / f"round-{number}" / re.sub(r"\W+", "-", contender.name)
            shutil.rmtree(folder, ignore_errors=True)
            rounds.append(measured(contender, folder))
            print(f"round {number + 1}: {contender.name}: {rounds[-1].seconds:.0f} s", file=sys.stderr, flush=True)
            text = json.dumps([asdict(one) for one in rounds], indent=1)
            (given.out / f"{given.rows}-rounds.json").write_text(text, encoding="utf-8")
    # Forward, and backward to what the layers were given: two operations for each of the model's parameters.
    print(table(rounds, operations * len(os.sched_getaffinity(0)) / (4 * parameters)))
    print(f"\nOne thread does {operations / 1e9:.0f} billion operations of a bfloat16 matrix product a second.")


if __name__ == "__main__":
    main()
