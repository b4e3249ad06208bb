"""Measure adapterzoo against the same scripts on a GPU, with a random Llama of a billion parameters.

    python bench/gpu.py --rounds 3 --out bench-out

The weights are random, so only the times mean anything, not the scores. On the bfloat16 base all seven methods are
trained; on the nf4 base only those that PEFT can train there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from bench import METHODS

HERE = Path(__file__).resolve().parent
NF4_METHODS = ("lora", "ia3", "adalora", "oft")
# Leave out the scripts that run two at a time: they are pinned to CPU cores, which makes no difference on a GPU.
RIVALS = ("a: TRL", "b: TRL", "c: PEFT")


def make_model(folder: Path, tokenizer_folder: Path | None) -> None:
    """Write a Llama of 1.1 billion parameters with random weights, and a tokenizer (the bundled model's if None)."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from adapterzoo.model import files as model_files

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder or model_files.locate("smollm2-135m"))
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def main() -> None:
    """Write the model unless it exists, and run the bench on it with each quantization."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", choices=("quickstart", "long"), action="append", default=[])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("-m", "--method", dest="methods", action="append", default=[], help="train only this method")
    parser.add_argument("--tokenizer", type=Path, help="folder of a tokenizer, for machines without internet")
    parser.add_argument("--quantization", choices=("none", "nf4"), action="append", default=[])
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch finds no GPU on this machine. For the CPU, run python bench/bench.py.")
    model = given.out.resolve() / "llama-1b"
    if not model.exists():
        make_model(model, given.tokenizer)
    only = [part for name in RIVALS for part in ("--only", name)]
    for quantization in given.quantization or ("none", "nf4"):
        methods = [name for name in given.methods or METHODS if quantization == "none" or name in NF4_METHODS]
        overrides = (f"model.name={model}", f"model.quantization={quantization}", f"train.steps={given.steps}")
        options = [part for override in overrides for part in ("--set", override)]
        options += [part for method in methods for part in ("-m", method)]
        for rows in given.rows or ("quickstart", "long"):
            out = given.out / f"gpu-{quantization}"
            command = [sys.executable, HERE / "bench.py", rows, "--rounds", given.rounds, "--out", out, *only, *options]
            print(f"{torch.cuda.get_device_name()}, {rows}, quantization {quantization}", flush=True)
            subprocess.run(list(map(str, command)), check=True)


if __name__ == "__main__":
    main()
