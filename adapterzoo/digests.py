"""Digests that tell whether files are still what they were.

They are made with xxh3 (128 bits), ten times as fast as SHA-256: for a model of 140 GB the disk is what takes time.
They find damage and change, not forgery by somebody who computes a collision.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import xxhash

from adapterzoo.files import cache_folder

CACHE = "digests.json"
MAX_CACHED_FILES = 10_000
# A file that was changed this shortly before may change again without a new time.
SETTLED_NANOSECONDS = 2_000_000_000


def new_digest() -> Any:
    """Return an empty digest, with ``update`` and ``hexdigest``."""
    return xxhash.xxh3_128()


def text_digest(text: str) -> str:
    """Return the digest of a text."""
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


def records_digest(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the digest of records, whatever the order of their keys."""
    return text_digest(json.dumps(list(records), sort_keys=True))


def file_digest(path: Path) -> str:
    """Return the digest of a file's whole content.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, new_digest).hexdigest()


def file_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the digests of files, each read once: later ones are known by the file's size, times and inode.

    Raises:
        OSError: a file cannot be read.
    """
    known = _read_cache()
    found, new = {}, {}
    for path in paths:
        identity, settled = _identity(path)
        found[path] = known.get(identity) or file_digest(path)
        if settled and identity not in known:
            new[identity] = found[path]
    if new:
        _write_cache({**known, **new})
    return found


def _identity(path: Path) -> tuple[str, bool]:
    """Return what changes when a file does, and whether its last change was long enough ago to be seen in it."""
    status = path.stat()
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(map(str, parts)), time.time_ns() - changed > SETTLED_NANOSECONDS


def _read_cache() -> dict[str, str]:
    try:
        kept = json.loads((cache_folder() / CACHE).read_text(encoding="utf-8"))
        entries: dict[str, str] = kept["entries"]
        return entries if kept["digest"] == _digest_of(entries) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):  # damaged, or not there
        return {}


def _write_cache(entries: Mapping[str, str]) -> None:
    """Replace the cache in one go; where it cannot be written, files are read again."""
    newest = dict(list(entries.items())[-MAX_CACHED_FILES:])
    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=folder, suffix=".new")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump({"digest": _digest_of(newest), "entries": newest}, file)
        os.replace(aside, folder / CACHE)
    except OSError:
        return


def _digest_of(entries: Mapping[str, str]) -> str:
    return text_digest(json.dumps(entries, sort_keys=True))
