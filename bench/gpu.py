"""Measures adapterzoo against the same scripts on a GPU, on a random Llama of a billion parameters.

    python bench/gpu.py --rounds 3 --out bench-out

The model knows nothing, so its scores say nothing: what is measured is the time. In bfloat16 all seven methods; over
4 bits those that PEFT can train there.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
OVER_NF4 = ("lora", "ia3", "adalora", "oft")
# The scripts that run two at a time are pinned to a processor's cores, which is no matter here.
CONTENDERS = ("adapterzoo", "a: TRL", "b: TRL", "c: PEFT")


def make_model(folder: Path) -> None:
    """Write a Llama of 1.1 billion parameters with random weights, and the bundled model's tokenizer."""
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    from adapterzoo.model import files as model_files

    tokenizer = AutoTokenizer.from_pretrained(model_files.locate("smollm2-135m"))
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
    """Make the model where it is not there yet, and run the bench on it over each base."""
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rows", choices=("quickstart", "long"), action="append", default=[])
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--out", type=Path, default=Path("bench-out"))
    given = parser.parse_args()
    if not torch.cuda.is_available():
        sys.exit("torch sees no GPU here: python bench/bench.py is for the CPU.")
    model = given.out.resolve() / "llama-1b"
    if not model.exists():
        make_model(model)
    only = [part for name in CONTENDERS for part in ("--only", name)]
    for quantization, methods in (("none", ()), ("nf4", OVER_NF4)):
        sets = (f"model.name={model}", f"model.quantization={quantization}", f"train.steps={given.steps}")
        options = [part for one in sets for part in ("--set", one)] + [part for one in methods for part in ("-m", one)]
        for rows in given.rows or ("quickstart", "long"):
            out = given.out / f"gpu-{quantization}"
            command = [sys.executable, HERE / "bench.py", rows, "--rounds", given.rounds, "--out", out, *only, *options]
            print(f"{torch.cuda.get_device_name()}, {rows}, base {quantization}", flush=True)
            subprocess.run(list(map(str, command)), check=True)


if __name__ == "__main__":
    main()
