"""Write and remove files so that a process that is killed leaves no incomplete file."""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path, PureWindowsPath

import platformdirs

from adapterzoo.errors import UserError

CACHE_VARIABLE = "ADAPTERZOO_CACHE"
# Temporary files of a cache that are older than this were left by a process that was killed.
ABANDONED_SECONDS = 24 * 3600


def cache_folder() -> Path:
    """Return the folder for converted models, tokens and digests: ``$ADAPTERZOO_CACHE``, or one in the user's cache."""
    return Path(os.environ.get(CACHE_VARIABLE) or platformdirs.user_cache_dir("adapterzoo", appauthor=False))


def temporary_path(path: Path) -> Path:
    """Return the path that a file or folder has while it is written or removed."""
    return path.with_name(f".{path.name}.new")


def require_free(path: Path, option: str) -> None:
    """Raise UserError, which names an option, unless a path is free for a new folder: missing, or an empty folder."""
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError.at(f"{option} {path}", "already exists.", "Give another folder.")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield a path for a folder that a ``with`` block writes, and that gets its name only if there is no error.

    Args:
        path: where the folder will be; an empty folder may be there already.
    """
    written = temporary_path(path.absolute())
    remove(written)  # a process that was killed may have left it
    written.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield written
        if not path.exists():
            os.replace(written, path)
        else:  # keep the empty folder, because the user may be in it
            for file in written.iterdir():
                os.replace(file, path / file.name)
    finally:
        shutil.rmtree(written, ignore_errors=True)


def write_atomically(path: Path, text: str, writer: str = "") -> None:
    """Write a file under a temporary name, and rename it once it is on the disk.

    Args:
        path: the file.
        text: its content.
        writer: what tells this process from others that may write the same file at the same time.

    Raises:
        OSError: it cannot be written; the error names the file.
    """
    new = temporary_path(path.with_name(f"{path.name}.{writer}") if writer else path)
    if path.is_dir() or new.is_dir():  # the folder of outputs was damaged
        remove(path)
    try:
        with new.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(new, path)
    except OSError as error:  # perhaps the disk is full
        new.unlink(missing_ok=True)
        error.filename = error.filename or str(path)  # Python names no file if writing to an open one fails
        raise


def create_once(path: Path, text: str) -> bool:
    """Create a file with a text unless there is one of its name; return whether this call has created it.

    Of several processes that call it, on any machine, one is told that it has.
    """
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=".", suffix=".new")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(name, path)
        except FileExistsError:
            return False
        except OSError:  # a file system without links; others may then see the file before its text
            try:
                with path.open("x", encoding="utf-8") as file:
                    file.write(text)
            except FileExistsError:
                return False
        return True
    finally:
        Path(name).unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Wait until a file, or all files below a folder, are on the disk."""
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file():
            descriptor = os.open(file, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder, if there is one.

    A folder is renamed first, so that a folder of that name is always complete, even if the process is killed.
    """
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(temporary_path(path), ignore_errors=True)
        os.replace(path, temporary_path(path))
    else:
        path.unlink(missing_ok=True)
    shutil.rmtree(temporary_path(path), ignore_errors=True)


@contextmanager
def new_cache_file(folder: Path) -> Iterator[Path]:
    """Give an empty file with a name of its own, to be written and then renamed, for a folder that processes share.

    Afterwards remove it if it was not renamed, and remove what killed processes left.

    Raises:
        OSError: the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    remove_abandoned(folder, "*.new")
    handle, name = tempfile.mkstemp(dir=folder, suffix=".new")
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def remove_abandoned(folder: Path, pattern: str) -> None:
    """Remove the temporary files and folders of a cache that match a pattern and are older than ABANDONED_SECONDS."""
    for path in folder.glob(pattern):
        with suppress(OSError):  # another process removes it too, or it cannot be removed
            if time.time() - path.stat().st_mtime > ABANDONED_SECONDS:
                remove(path)


def read_text(path: Path, max_bytes: int) -> str:
    """Return the text of an ordinary file, which may come from a stranger.

    Raises:
        OSError: it is not an ordinary file (reading a pipe could wait for ever), is too large, or cannot be read.
    """
    require_ordinary(path, max_bytes)
    return path.read_text(encoding="utf-8")


def require_ordinary(path: Path, max_bytes: int) -> None:
    """Raise OSError unless a path is an ordinary file of at most so many bytes."""
    size = path.stat().st_size
    if not path.is_file():
        raise OSError(errno.EINVAL, "it is not an ordinary file", str(path))
    if size > max_bytes:
        raise OSError(errno.EFBIG, f"it has {size} bytes, and at most {max_bytes} are read", str(path))


def is_device_name(name: str) -> bool:
    """Tell whether Windows keeps a name for a device, so that no file or folder can have it."""
    return re.fullmatch(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", name, re.IGNORECASE) is not None


def stays_inside(name: str) -> bool:
    """Tell whether a relative path, on any system, stays in the folder that it is relative to."""
    path = PureWindowsPath(name)  # it takes both / and \\ for separators
    return bool(path.parts) and not path.anchor and ".." not in path.parts


def special_file(folder: Path) -> Path | None:
    """Return a pipe, a device or a socket in a folder, or in a folder below it; None if there is none.

    To read it could wait for ever.
    """
    paths = (path for path in folder.rglob("*") if os.path.exists(path))
    return next((path for path in paths if not (path.is_file() or path.is_dir())), None)


def link_out_of(folder: Path) -> Path | None:
    """Return a link in a folder, or in a folder below it, that leads out of the folder; None if there is none.

    Names that end with ``.lock`` are left out, because the lock of a tuning that was killed is a link to nowhere.
    """
    home = os.path.realpath(folder)
    for place, folders, files in os.walk(folder):
        for name in (*folders, *files):
            path = os.path.join(place, name)
            is_link = os.path.islink(path) and not name.endswith(".lock")
            if is_link and not Path(os.path.realpath(path)).is_relative_to(home):
                return Path(path)
    return None
