"""Find out whether a process on another machine sees the same output folder."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

from adapterzoo.errors import UserError
from adapterzoo.files import read_text, write_atomically
from adapterzoo.results.claim_files import CLAIMS

PROBE = f"{CLAIMS}/probe"
MAX_BYTES = 100


def write_probe(folder: Path) -> str:
    """Write a random text into an output folder, where it is removed together with the claims; return the text."""
    text = uuid.uuid4().hex
    (folder / PROBE).parent.mkdir(exist_ok=True)
    write_atomically(folder / PROBE, text)
    return text


def sees(folder: Path, text: str) -> bool:
    """Tell whether an output folder, as this process sees it, is the one into which another has written a text."""
    with suppress(OSError, UserError, ValueError):
        return read_text(folder / PROBE, MAX_BYTES) == text
    return False
