"""Measure the memory of two processes that divide a base model among them, and of two that each hold all of it.

    python bench/divided.py

It makes a Llama with random weights (477 MB in float32), and prints the highest anonymous memory of a process in
each phase, above what it had before. Freed memory is given back to the system at once; in a run on a CPU it is not.
The last column is the share of the layers that were gathered ahead in training.
"""

from __future__ import annotations

import ctypes
import gc
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

RANKS = 2
SHAPE = {
    "vocab_size": 8000,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 8,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
    "max_position_embeddings": 256,
}
TINY = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 1}
TOKENS, ROWS, STEPS = 32, 2, 4
SAMPLE_SECONDS = 0.005
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, LIMIT_BYTES = -1, -3, 2**16
PHASES = ("loading", "at rest", "measuring", "putting LoRA on", "training")
AHEAD = "gathered ahead"
COLUMNS = (*PHASES, AHEAD)


def main() -> None:
    """Print a table, in markdown."""
    from adapterzoo.machine.processes import in_processes

    with tempfile.TemporaryDirectory(prefix="adapterzoo-") as folder:
        # Each process uses the tiny one first, so that what it does only once is not measured with the large one.
        shapes = {f"{folder}/tiny": {**SHAPE, **TINY}, f"{folder}/large": SHAPE}
        # Make them in other processes, because memory that this one frees is still in those that it forks.
        folders = in_processes([partial(_make_model, folder, shape) for folder, shape in shapes.items()], 1)
        print(f"| | {' | '.join(COLUMNS)} |\n| --- |{' ---: |' * len(COLUMNS)}")
        for quantization in ("none", "nf4"):
            for divided in (False, True):
                found = _largest(partial(_bytes_of_phases, folders, quantization, divided))
                texts = [f"{found[phase] / 1e6:.0f} MB" for phase in PHASES]
                texts.append(f"{found[AHEAD]} %" if divided else "")
                print(f"| {quantization}, {'divided' if divided else 'whole'} | {' | '.join(texts)} |", flush=True)


def _make_model(folder: str, shape: dict[str, int]) -> str:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    # The weights are read in another dtype than they are saved in, or they would stay mapped from the file.
    config = LlamaConfig(**shape, tie_word_embeddings=False)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def _largest(work: Callable[[], dict[str, int]]) -> dict[str, int]:
    """Let the ranks do a piece of work together; return the largest number of each column."""
    from adapterzoo.machine import ranks
    from adapterzoo.machine.processes import Send, wait_for_any
    from adapterzoo.machine.rank_processes import forked_ranks

    def send_all(send: Send) -> None:
        ranks.join()
        send(ranks.gathered(work()))

    process, messages = forked_ranks(RANKS, send_all, 1), list[Any]()
    while process.alive:
        wait_for_any([process])
        messages += process.messages()
    messages += process.messages()
    if not messages:
        raise SystemExit(process.output())
    return {column: max(found[column] for found in messages[0]) for column in COLUMNS}


def _bytes_of_phases(folders: Sequence[str], quantization: str, divided: bool) -> dict[str, int]:
    """Return column -> bytes of a phase with the last model, above those before it was loaded, or a percentage."""
    import torch
    from peft import LoraConfig, get_peft_model

    from adapterzoo.model import base
    from adapterzoo.recipe.schema import ModelSection

    libc, ids = ctypes.CDLL("libc.so.6"), torch.arange(TOKENS)[None].repeat(ROWS, 1)
    libc.mallopt(M_MMAP_THRESHOLD, LIMIT_BYTES)
    libc.mallopt(M_TRIM_THRESHOLD, LIMIT_BYTES)
    for folder in folders:
        peaks = dict[str, int]()
        with _peak(peaks, "before"):
            section = ModelSection(name=folder, dtype="float32")
        with _peak(peaks, "loading"):
            loaded = base.load(section, folder, quantization, TOKENS, divided=divided)
        with _peak(peaks, "at rest"):
            pass
        with loaded.borrow() as model:
            with _peak(peaks, "measuring"), torch.no_grad():
                for _ in range(2):  # after the first pass it is known which layer follows which
                    model(ids)
            with _peak(peaks, "putting LoRA on"):
                wrapped = get_peft_model(model, LoraConfig(target_modules="all-linear"))
            with _peak(peaks, "training"), _counted() as counts:
                for _ in range(STEPS):
                    wrapped(input_ids=ids, labels=ids).loss.backward()
    share = 100 * counts["use"] // max(1, counts.total())
    return {phase: peak - peaks["before"] for phase, peak in peaks.items()} | {AHEAD: share}


@contextmanager
def _counted() -> Iterator[Counter[str]]:
    """Count the layers that are gathered ahead (``use``), and those that are gathered when they are needed."""
    from adapterzoo.model.ahead import Ahead
    from adapterzoo.model.divided import Divided

    counts = Counter[str]()

    def counting(owner: type, name: str) -> Any:
        function = getattr(owner, name)

        def called(*arguments: Any) -> None:
            counts[name] += 1
            function(*arguments)

        return mock.patch.object(owner, name, called)

    with counting(Ahead, "use"), counting(Divided, "_gather"):
        yield counts


def _anonymous() -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (kilobytes,) = (line.split()[1] for line in lines if line.startswith("RssAnon:"))
    return int(kilobytes) * 1024


@contextmanager
def _peak(peaks: dict[str, int], phase: str) -> Iterator[None]:
    """Note the highest memory use in a ``with`` block, as seen from another thread."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    done = threading.Event()

    def watch() -> None:
        while True:
            peaks[phase] = max(peaks.get(phase, 0), _anonymous())
            if done.is_set():
                return
            time.sleep(SAMPLE_SECONDS)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    main()
