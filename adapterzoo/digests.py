"""Compute digests, which tell whether files have changed.

The hash is xxh3 with 128 bits. It is ten times as fast as SHA-256, so that even a model of 140 GB is hashed as fast as
the disk can read it. It detects damage and changes, but not forgery: an attacker can make a file with the same hash.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from adapterzoo.files import cache_folder, new_cache_file, remove

CACHE = "digests.json"
DIGEST = "digest"
"""key for the digest of all other keys of a JSON file"""
MAX_CACHED_FILES = 10_000
# Do not cache the digest of a file that changed less than this long ago: its next change might not get a new timestamp.
SETTLED_NANOSECONDS = 2_000_000_000


def new_digest() -> Any:
    """Return an empty digest, an object with ``update`` and ``hexdigest``."""
    return xxhash.xxh3_128()


def text_digest(text: str) -> str:
    """Return the digest of a text."""
    return str(xxhash.xxh3_128_hexdigest(text.encode()))


def ending(settings: Sequence[str]) -> str:
    """Return an ending for the name of a folder: another one for other settings, and empty if there are none."""
    return f"-{hashlib.sha256(chr(0).join(settings).encode()).hexdigest()[:8]}" if settings else ""


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of a JSON file with a digest of all other keys, by which :func:`is_intact` finds damage."""
    # The digest is that of the content as it is read again: JSON makes texts of keys, and lists of tuples.
    plain: dict[str, Any] = json.loads(json.dumps(content))
    return {**plain, DIGEST: records_digest([plain])}


def is_intact(content: Mapping[str, Any]) -> bool:
    """Tell whether what was read from a JSON file is what was written; True for files of old versions, unsigned."""
    others = {name: value for name, value in content.items() if name != DIGEST}
    return content.get(DIGEST) in (None, records_digest([others]))


def records_digest(records: Iterable[Mapping[str, Any]]) -> str:
    """Return the digest of records, which does not depend on the order of their keys."""
    return text_digest(json.dumps(list(records), sort_keys=True))


def file_digest(path: Path) -> str:
    """Return the digest of a file's whole content.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, new_digest).hexdigest()


def file_digests(paths: Iterable[Path]) -> dict[Path, str]:
    """Return the digests of files, and remember them: a file is read again only if its size, times or inode change.

    Raises:
        OSError: a file cannot be read.
    """
    cached = _read_cache()
    digests, new = {}, {}
    for path in paths:
        identity, settled = file_identity(path)
        digests[path] = cached.get(identity) or file_digest(path)
        if settled and identity not in cached:
            new[identity] = digests[path]
    if new:
        _write_cache({**cached, **new})
    return digests


def file_identity(path: Path) -> tuple[str, bool]:
    """Return a key that changes when a file does, and whether the last change is old enough to rely on the key."""
    status = path.stat()
    changed = max(status.st_mtime_ns, status.st_ctime_ns)
    parts = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
    return ":".join(map(str, parts)), time.time_ns() - changed > SETTLED_NANOSECONDS


def name_by_digest(new: Path, path: Path, max_files: int, recent_seconds: float = 0) -> Path:
    """Rename a file of a cache, so that its name ends with its digest; remove the oldest files of its folder.

    Args:
        new: the file, complete.
        path: its name without the digest, which :func:`undamaged` finds it by.
        max_files: number of files of this kind to keep.
        recent_seconds: files that were used so recently are kept too.

    Raises:
        OSError: the folder cannot be written.
    """
    named = path.with_stem(f"{path.stem}-{file_digest(new)}")
    os.replace(new, named)
    with suppress(OSError):  # another process removes them too
        files = sorted(path.parent.glob(f"*{path.suffix}"), key=lambda file: file.stat().st_mtime)
        for old in files[:-max_files]:
            if time.time() - old.stat().st_mtime > recent_seconds:
                old.unlink(missing_ok=True)
    return named


def undamaged(path: Path) -> Path | None:
    """Return the file that :func:`name_by_digest` named, if its content is that of its name; remove damaged ones."""
    for file in path.parent.glob(f"{path.stem}-*{path.suffix}"):
        try:
            if file.stem.rpartition("-")[2] == file_digest(file):
                return file
        except OSError:  # it cannot be read
            pass
        with suppress(OSError):
            remove(file)
    return None


def _read_cache() -> dict[str, str]:
    """Return the cached digests by file identity; an empty mapping if the cache is missing or damaged."""
    try:
        content = json.loads((cache_folder() / CACHE).read_text(encoding="utf-8"))
        entries: dict[str, str] = content["entries"]
        return entries if content["digest"] == _entries_digest(entries) else {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _write_cache(entries: Mapping[str, str]) -> None:
    """Replace the cache; ignore a cache that cannot be written, because files can be read again."""
    newest = dict(list(entries.items())[-MAX_CACHED_FILES:])
    path = cache_folder() / CACHE
    try:
        with new_cache_file(path.parent) as new:
            new.write_text(json.dumps({"digest": _entries_digest(newest), "entries": newest}), encoding="utf-8")
            if path.is_dir():  # it was damaged
                remove(path)
            os.replace(new, path)
    except OSError:
        return


def _entries_digest(entries: Mapping[str, str]) -> str:
    return text_digest(json.dumps(entries, sort_keys=True))
