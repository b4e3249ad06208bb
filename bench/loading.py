"""Measure the memory that loading a base model takes at its peak, against what the loaded model takes.

    python bench/loading.py                 # a Llama of 500 million random parameters, a minute
    python bench/loading.py --size 1b

Each quantization is loaded in a process of its own, which keeps freed memory, as a run does. *Own* memory is the
process's own (RssAnon) beyond the libraries. Weights that stay mapped from the files are not in it, and come on top of
both at the peak and at the end.
"""

from __future__ import annotations

import argparse
import tempfile
import threading
from functools import partial
from pathlib import Path

from memory import SIZES, make_config

from adapterzoo.machine.processes import in_processes

SAMPLE_SECONDS = 0.005
QUANTIZATIONS = ("none", "int8", "nf4", "fp4")


def own_bytes() -> int:
    """Return the memory of this process that is not a page of a file."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon"))


def write_model(folder: str, size: str) -> None:
    """Write a model with random weights in bfloat16."""
    import torch
    from transformers import LlamaForCausalLM

    LlamaForCausalLM(make_config(size)).to(torch.bfloat16).save_pretrained(folder, max_shard_size="500MB")


def loaded(folder: str, quantization: str, dtype: str) -> tuple[int, int, int]:
    """Load a model; return the bytes of its weights, and this process's own memory at the peak and at the end."""
    from adapterzoo.machine.memory import keep_freed_memory, spare_imported_modules
    from adapterzoo.model.base_state import parts
    from adapterzoo.model.loading import load_weights
    from adapterzoo.recipe.schema import ModelSection

    spare_imported_modules()
    keep_freed_memory()
    before, peak, done = own_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, own_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    model = load_weights(ModelSection(name=folder, dtype=dtype), folder, quantization, 64)
    done.set()
    watcher.join()
    tensors = [part for tensor in model.state_dict().values() for part in parts(tensor) or [tensor]]
    memory = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(memory.values()), max(peak, own_bytes()) - before, own_bytes() - before


def main() -> None:
    """Load a model in each quantization, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, default="500m")
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    given = parser.parse_args()
    print("quantization  weights  own, peak  own, end  peak / loaded")
    with tempfile.TemporaryDirectory() as folder:
        list(in_processes([partial(write_model, folder, given.size)], 1))
        for quantization in QUANTIZATIONS:
            (figures,) = in_processes([partial(loaded, folder, quantization, given.dtype)], 1)
            if isinstance(figures, Exception):
                raise figures
            weights, peak, end = figures
            mapped = max(weights - end, 0)
            cells = (f"{value / 1e6:6.0f}MB" for value in (weights, peak, end))
            print(f"{quantization:<12} {'  '.join(cells)}  {(peak + mapped) / (end + mapped):6.2f}", flush=True)


if __name__ == "__main__":
    main()
