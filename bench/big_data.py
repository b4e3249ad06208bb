"""Measure how much memory and time a large data file takes: checked, previewed, and trained on for a few steps.

    python bench/big_data.py --gigabytes 0.2 2 20

It writes JSON lines. ``--used-bytes`` of each row are its text, and the rest is a column that the recipe does not use.
Each command is a process that may have ``--limit`` gigabytes of memory of its own (RLIMIT_DATA: pages of mapped files
do not count, because the system takes them back when it needs them). The table has the largest sum of such memory over
the command's processes (RssAnon). All files are removed at the end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from tiny import make_model

SAMPLE_SECONDS = 0.1
TEXT_CHARACTERS = 2**22
LABELS = 1000  # number of different answers
HELD_OUT_ROWS = 200  # in validation, and in test

TASKS = {
    "supervised": ("qa", ("question", "answer"), ", shots: 0"),
    "classification": ("labelled", ("text", "label"), ""),
    "preference": ("preference", ("prompt", "chosen", "rejected"), ""),
    "embedding": ("pair", ("anchor", "positive"), ""),
}
"""task -> its format, its columns, and more of the recipe's evaluate section"""

RECIPE = """\
name: big
task: {task}
model: {{name: {model}, dtype: float32}}
data:
  source: {data}
  format: {format}
  split: {{train: {train}, validation: {held_out}, test: {held_out}}}
  max_length: {max_length}
train: {{steps: 20, batch_size: 4}}
evaluate: {{max_new_tokens: 4{evaluate}}}
methods: [lora, ia3]
"""


def write_data(path: Path, size: int, row_bytes: int, used_bytes: int, columns: Sequence[str]) -> int:
    """Write a file of at least ``size`` bytes; return its number of rows.

    The first column is a long text, and the others are words.
    """
    generator = random.Random(0)
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 9))) for _ in range(5000)]
    text = " ".join(generator.choices(words, k=TEXT_CHARACTERS // 6))
    written, number = 0, 0
    with path.open("w", encoding="ascii") as file:
        while written < size:
            begin = generator.randrange(len(text) - row_bytes)
            middle = begin + row_bytes - used_bytes
            row = {
                "url": f"https://example.com/{number}",
                "page": text[begin:middle],
                columns[0]: f"What is number {number} of {text[middle : begin + row_bytes]}?",
                **{name: words[(number + place) % LABELS] for place, name in enumerate(columns[1:])},
            }
            written += file.write(json.dumps(row) + "\n")
            number += 1
    return number


def measured(command: list[str], limit: int, environment: dict[str, str]) -> tuple[float, int, str, int]:
    """Run a command; return its seconds, its peak memory without pages of files, its output, and its exit code."""
    begun, peak, done = time.monotonic(), 0, threading.Event()

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, preexec_fn=limited, env=environment
    ) as process:

        def watch() -> None:
            nonlocal peak
            while not done.wait(SAMPLE_SECONDS):
                peak = max(peak, anonymous_bytes(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        output, _ = process.communicate()
        done.set()
        watcher.join()
    return time.monotonic() - begun, peak, output, process.returncode


def anonymous_bytes(pid: int) -> int:
    """Return the memory of a process and its children that is not a page of a file."""
    total = 0
    try:
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="ascii")
            total += sum(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))
    except (psutil.Error, OSError):  # it has just ended
        pass
    return total


def main() -> None:
    """Measure files of several sizes, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.2, 2])
    parser.add_argument("--task", choices=TASKS, default="supervised")
    parser.add_argument("--row-bytes", type=int, default=40_000)
    parser.add_argument("--used-bytes", type=int, default=150)
    parser.add_argument("--max-length", type=int, default=256)
    parser.add_argument("--limit", type=float, default=4, help="gigabytes of memory that each process may have")
    parser.add_argument("--folder", type=Path, help="where the files are written [a temporary folder]")
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="passed to each command")
    given = parser.parse_args()
    print("file      rows   command         peak memory   seconds  exit")
    for gigabytes in given.gigabytes:
        folder = Path(tempfile.mkdtemp(dir=given.folder))
        try:
            measure_file(folder, int(gigabytes * 1e9), given)
        finally:
            shutil.rmtree(folder)


def measure_file(folder: Path, size: int, given: argparse.Namespace) -> None:
    """Print a line for each command on a file of a size."""
    data, recipe = folder / "big.jsonl", folder / "big.yaml"
    kind, columns, evaluate = TASKS[given.task]
    rows = write_data(data, size, given.row_bytes, given.used_bytes, columns)
    share = HELD_OUT_ROWS / rows
    values = {"held_out": f"{share:.9f}", "train": f"{1 - 2 * share:.9f}", "max_length": given.max_length}
    values |= {"task": given.task, "format": kind, "evaluate": evaluate}
    recipe.write_text(RECIPE.format(model=make_model(folder / "model"), data=data, **values), encoding="utf-8")
    overrides = [argument for override in given.overrides for argument in ("--set", override)]
    environment = {**os.environ, "ADAPTERZOO_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    time.sleep(3)  # the rows of a file that has just been written are not kept for later commands
    for name, arguments in (
        ("first rows", ["preview", str(recipe), "--set", "data.limit=2000"]),
        ("check", ["check", str(recipe), *overrides]),
        ("preview", ["preview", str(recipe), *overrides]),
        ("run", ["run", str(recipe), "--out", str(folder / "out"), *overrides]),
    ):
        command = [sys.executable, "-m", "adapterzoo", *arguments]
        seconds, peak, output, code = measured(command, int(given.limit * 1e9), environment)
        (folder / f"{name.replace(' ', '-')}.txt").write_text(output, encoding="utf-8")
        print(f"{size / 1e9:5.1f} GB {rows:8,} {name:<14} {peak / 1e6:8.0f} MB {seconds:9.1f} {code:5}", flush=True)
        if code:
            print(output)
    kept = sum(path.stat().st_size for path in (folder / "cache").rglob("*") if path.is_file())
    print(f"         in the cache folder: {kept / 1e9:.2f} GB", flush=True)


if __name__ == "__main__":
    main()
