"""Merge and export the adapters of all methods in one part and in several, and compare the files bit for bit.

    python bench/merging.py methods [-m NAME ...] [--quantization nf4]
    python bench/merging.py families
    python bench/merging.py updates

``methods`` trains each method that can be merged on a tiny Llama of three layers for three steps. ``families`` writes
the tiny model of each family that the kit knows in parts, and compares it with the model. ``updates`` compares the time
of decomposing an update of a low rank with that of a full singular value decomposition, alternately.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from cells import saved_weights
from tiny import RECIPE, make_data, make_model

from adapterzoo import UserError
from adapterzoo.methods.registry import registry
from adapterzoo.model import parts

SIZES = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 3, "head_dim": 32, "initializer_range": 0.1}
LEARN = ("train.steps=3", "train.learning_rate=1e-2", "evaluate.max_new_tokens=1")
PLENTY, LITTLE = 2**50, 1


def main() -> None:
    """Print a line for each method, family or layer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["methods", "families", "updates"])
    parser.add_argument("-m", "--method", action="append", default=[])
    parser.add_argument("--quantization", default="none")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "methods":
            compare_methods(Path(folder), given.method, given.quantization)
        elif given.what == "families":
            compare_families(Path(folder))
        else:
            time_updates()


def compare_methods(folder: Path, names: list[str], quantization: str) -> None:
    """Train the methods, and merge and export each adapter with much and with little free memory."""
    import torch
    from click.testing import CliRunner
    from transformers import LlamaConfig, LlamaForCausalLM

    from adapterzoo.adapters.finding import find_adapter
    from adapterzoo.cli import main as adapterzoo

    model = make_model(folder / "model")
    config = LlamaConfig.from_pretrained(model)
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**{**config.to_dict(), **SIZES})).save_pretrained(model)
    found = [
        name
        for name, method in registry().items()
        if not method.unavailable and method.mergeable_into and "CAUSAL_LM" in method.task_types
        if quantization in method.quantizations and (not names or name in names)
    ]
    recipe = folder / "recipe.yaml"
    data = make_data(folder / "verbs.csv")
    recipe.write_text(RECIPE.format(model=model, data=data, methods=", ".join(found)), encoding="utf-8")
    sets = [part for value in (*LEARN, f"model.quantization={quantization}") for part in ("--set", value)]
    CliRunner().invoke(adapterzoo, ["run", str(recipe), *sets, "--out", str(folder / "out")])
    for name in found:
        try:
            adapter = find_adapter(folder / "out", name)
        except UserError as error:
            print(f"{name:<16} not trained: {error}", flush=True)
            continue
        print(f"{name:<16} {compared(adapter, folder / name)}", flush=True)


def compared(adapter: Any, folder: Path) -> str:
    """Merge and export an adapter twice; return in how many parts, and whether the results are the same."""
    from adapterzoo.adapters.exporting import export_lora
    from adapterzoo.adapters.merging import Merger

    results: list[dict[str, Any]] = []
    said: list[str] = []
    for how, free in (("whole", PLENTY), ("parts", LITTLE)):
        parts.available = lambda free=free: free  # type: ignore[assignment]
        places = {"merged": folder / how / "merged", "exported": folder / how / "exported"}
        try:
            Merger(said.append, measure=False).merge(adapter, places["merged"])
            export_lora(adapter, places["exported"], said.append, measure=False)
        except UserError as error:
            said.append(str(error))
        results.append({f"{kind} {name}": t for kind, place in places.items() for name, t in read(place).items()})
    first, second = results
    same = first.keys() == second.keys() and all(first[name].equal(second[name]) for name in first)
    count = len(list((folder / "parts" / "merged").glob("*.safetensors")))
    what = f"{count} parts, {len(first)} tensors {'the same' if same else 'DIFFERENT'}"
    return "; ".join([what, *dict.fromkeys(said)])


def read(folder: Path) -> dict[str, Any]:
    """Return the tensors of a folder; none if it was not written."""
    return saved_weights(folder) if folder.is_dir() else {}


def compare_families(folder: Path) -> None:
    """Write the tiny model of each family in parts, and compare it with the model."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import PreTrainedTokenizerFast

    from adapterzoo.adapters.merged_files import MergedFiles
    from adapterzoo.conformance.families import FAMILIES
    from adapterzoo.conformance.models import model_folder, tiny_base

    parts.available = lambda: LITTLE
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel({"a": 0}, unk_token="a")))
    for family in FAMILIES:
        files, count = MergedFiles(folder / family), 0
        with tiny_base(family, "none").borrow() as model:
            for part in parts.parts(model, "none", "float32"):
                part.leave_out(part.model)
                files.add(part.model)
                count += 1
        files.finish(tokenizer)
        written, expected = saved_weights(folder / family), saved_weights(model_folder(family))
        same = written.keys() == expected.keys() and all(written[name].equal(expected[name]) for name in expected)
        print(f"{family:<20} {count} parts, {len(expected)} tensors {'the same' if same else 'DIFFERENT'}", flush=True)


def time_updates(rounds: int = 3) -> None:
    """Decompose updates of rank 8 in both ways, alternately."""
    import torch

    from adapterzoo.adapters.updates import Update

    for shape in ((576, 576), (1536, 576), (2048, 2048), (4096, 1024)):
        delta = torch.randn(shape[0], 8) @ torch.randn(8, shape[1])
        seconds: tuple[list[float], list[float]] = ([], [])
        for _ in range(rounds):
            for times, decompose in zip(seconds, (Update.of, whole), strict=True):
                begun = time.perf_counter()
                decompose(delta)
                times.append(time.perf_counter() - begun)
        own, full = map(statistics.median, seconds)
        print(f"{shape[0]} x {shape[1]}: {own:.3f} s, whole {full:.3f} s, {full / own:.0f} times as long", flush=True)


def whole(delta: Any) -> Any:
    """Decompose an update by a full singular value decomposition."""
    import torch

    return torch.linalg.svd(delta, full_matrices=False)


if __name__ == "__main__":
    main()
