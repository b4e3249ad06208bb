"""Measure the memory and time of a run whose base model is larger than the memory that it may have.

    python bench/offload.py --memory 300MB

It makes a random Llama of half a billion parameters with weights in bfloat16, and trains LoRA on it in float32, once
with all of it in memory and once with ``model.max_memory: {cpu: 300MB}``, so that most of it stays on the disk. Both
adapters are then merged and exported: that of the run from the disk with no more free memory than its weights may have,
and so in parts. Each command is one process. *Memory* is its largest ``RssAnon``: mapped files are left out, which the
system drops when it needs the room. Libraries alone take 0.7 GB of it.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import sys
import tempfile
from pathlib import Path

from accelerate.utils import convert_file_size_to_int
from big_data import measured

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "support"))

from tiny import make_data, make_model

SIZES = {"hidden_size": 1536, "intermediate_size": 6144, "num_attention_heads": 12, "num_key_value_heads": 4}
RECIPE = """\
name: offload
model: {{name: {model}, dtype: {dtype}}}
data:
  source: {data}
  columns: {{question: verb, answer: past}}
  split: {{train: 0.6, validation: 0.2, test: 0.2}}
  max_length: 64
train: {{steps: 2, batch_size: 4, warmup: 0}}
evaluate: {{batch_size: 8, max_new_tokens: 2, base: false, shots: 0}}
methods: [{methods}]
jobs: 0
"""
# Runs adapterzoo as on a machine with so much free memory.
FREE = """\
from adapterzoo.model import parts
parts.available = lambda: {bytes}
from adapterzoo.cli import main
main()
"""


def make_large(folder: Path, layers: int) -> Path:
    """Write a random model into a folder, with the tokenizer of the tests' tiny model; return the folder."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(make_model(folder / "tiny"))
    config = LlamaConfig(vocab_size=len(tokenizer), num_hidden_layers=layers, eos_token_id=2, pad_token_id=2, **SIZES)
    torch.set_default_dtype(torch.bfloat16)
    LlamaForCausalLM(config).save_pretrained(folder / "large", max_shard_size="300MB")
    tokenizer.save_pretrained(folder / "large")
    return folder / "large"


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=15)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--memory", default="300MB", help="model.max_memory of the cpu")
    parser.add_argument("-m", "--method", action="append", default=[])
    parser.add_argument("--set", action="append", default=[], dest="overrides", help="passed to each command")
    given = parser.parse_args()
    more = [argument for override in given.overrides for argument in ("--set", override)]
    spread = ["--set", "model.device_map=auto", "--set", f"model.max_memory={{cpu: {given.memory}}}"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, data, recipe = make_large(folder, given.layers), make_data(folder / "verbs.csv"), folder / "recipe.yaml"
        methods = ", ".join(given.method or ["lora"])
        recipe.write_text(RECIPE.format(model=model, data=data, dtype=given.dtype, methods=methods), encoding="utf-8")
        lora = ["-m", (given.method or ["lora"])[0]]
        merge, export = ("merge", *lora, "--no-measure"), ("export", *lora, "--as", "lora", "--no-measure")
        environment = {**os.environ, "ADAPTERZOO_CACHE": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
        print("command              memory   seconds  exit  losses")
        for what, arguments in (
            ("check", ["check", str(recipe), *spread]),
            ("run, offloaded", ["run", str(recipe), "--out", str(folder / "offloaded"), *spread]),
            ("run, in memory", ["run", str(recipe), "--out", str(folder / "in-memory")]),
            *(
                (f"{name}, {how}", [name, str(folder / how), *options, "--to", str(folder / f"{name}-{how}")])
                for name, *options in (merge, export)
                for how in ("offloaded", "in-memory")
            ),
        ):
            program = [sys.executable, "-m", "adapterzoo"]
            if what.startswith(("merge", "export")) and what.endswith("offloaded"):
                program = [sys.executable, "-c", FREE.format(bytes=convert_file_size_to_int(given.memory))]
            command = [*program, *arguments, *(more if arguments[0] in ("check", "run") else [])]
            seconds, peak, output, code = measured(command, resource.RLIM_INFINITY, environment)
            losses = [
                round(step["loss"], 6)
                for result in sorted(Path(arguments[3]).rglob("result.json") if arguments[0] == "run" else [])
                for step in json.loads(result.read_text(encoding="utf-8")).get("history", [])
            ]
            print(f"{what:<20} {peak / 1e9:6.2f} GB {seconds:8.1f} {code:5}  {losses}", flush=True)
            print("\n".join(f"    {line}" for line in output.splitlines() if code or "weights:" in line), flush=True)


if __name__ == "__main__":
    main()
