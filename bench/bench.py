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
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).resolve().parent
METHODS = ("lora", "qlora", "ia3", "loha", "lokr", "adalora", "oft")
RECIPES = {"quickstart": HERE.parent / "recipes" / "quickstart.yaml"}


@dataclass
class Round:
    """What one contender took for all methods."""

    contender: str
    seconds: float
    cpu_seconds: float
    peak_bytes: int
    """of the largest process"""


def write_job(recipe: Path, overrides: Sequence[str], path: Path) -> None:
    """Write what the rivals' scripts need: the model's folder, the rows as they are split, steps and rates."""
    from adapterzoo import load_recipe, model_files
    from adapterzoo.data.split import load_splits
    from adapterzoo.registry import registry
    from adapterzoo.training_arguments import in_steps

    checked = load_recipe(recipe, tuple(overrides))
    splits = load_splits(checked.data, lambda message: None)
    steps = checked.train.steps or 0

    def plain(rows: Sequence[Any]) -> list[dict[str, str]]:
        system = checked.data.system or ""
        return [{"system": system, "question": row.prompt, "answer": row.completion.strip()} for row in rows]

    job = {
        "model": model_files.locate(checked.model.name),
        "steps": steps,
        "warmup": in_steps(checked.train.warmup, steps),
        "batch_size": checked.train.batch_size,
        "max_length": checked.data.max_length,
        "rates": {name: registry()[name].learning_rate for name in METHODS},
        "train": plain(splits.train),
        "test": plain(splits.test),
    }
    path.write_text(json.dumps(job), encoding="utf-8")


def measured(name: str, work: Callable[[], None]) -> Round:
    """Return what a piece of work took, with all processes that it has started."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    work()
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Round(name, time.monotonic() - begun, spent, after.ru_maxrss * 1024)


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


def contenders(
    recipe: Path, methods: Sequence[str], overrides: Sequence[str], job: Path
) -> dict[str, Callable[[Path], None]]:
    """Return how each contender does all methods, into a folder; adapterzoo comes first."""
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

    return {
        "adapterzoo": zoo(),
        "adapterzoo --jobs 1": zoo("--jobs", "1", "--set", "threads=1"),
        "a: TRL, defaults": script("trl_script.py"),
        "b: TRL, tuned": script("trl_script.py", "--tuned"),
        "b: two at a time": script("trl_script.py", "--tuned", at_once=2),
        "c: PEFT's manner": script("peft_suite.py"),
    }


def table(rounds: Sequence[Round]) -> str:
    """Return the rounds as a markdown table: medians, and ratios to adapterzoo with their spread."""
    names = list(dict.fromkeys(one.contender for one in rounds))
    times = {name: [one.seconds for one in rounds if one.contender == name] for name in names}
    titles = ("contender", "seconds", "CPU seconds", "largest process", "times adapterzoo's")
    lines = [f"| {' | '.join(titles)} |", "| --- " * len(titles) + "|"]
    for name in names:
        mine = [one for one in rounds if one.contender == name]
        ratios = [other / own for other, own in zip(times[name], times[names[0]], strict=False)]
        spread = f"{median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        lines.append(
            f"| {name} | {median(times[name]):.0f} | {median(one.cpu_seconds for one in mine):.0f} "
            f"| {max(one.peak_bytes for one in mine) / 1e9:.2f} GB | {spread} |"
        )
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
    job = given.out / f"{given.rows}.json"
    write_job(RECIPES[given.rows], given.overrides, job)
    every = contenders(RECIPES[given.rows], given.methods or METHODS, given.overrides, job)
    chosen = {name: work for name, work in every.items() if not given.only or name.startswith(tuple(given.only))}
    rounds: list[Round] = []
    for number in range(given.rounds):
        for name, work in chosen.items():
            folder = given.out / given.rows / f"round-{number}" / name.replace(" ", "_").replace(":", "")
            shutil.rmtree(folder, ignore_errors=True)
            rounds.append(measured(name, lambda: work(folder)))  # noqa: B023  # called at once
            print(f"round {number + 1}: {name}: {rounds[-1].seconds:.0f} s", file=sys.stderr, flush=True)
            text = json.dumps([asdict(one) for one in rounds], indent=1)
            (given.out / f"{given.rows}-rounds.json").write_text(text, encoding="utf-8")
    print(table(rounds))


if __name__ == "__main__":
    main()
