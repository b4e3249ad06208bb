"""Things that a stranger may have made: each touches a canary if its code runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest


class Touch:
    """An object whose pickle makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.fixture
def canary(tmp_path: Path) -> Iterator[Path]:
    """Return a file that no test may make, because only the code of a stranger would."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "a stranger's code ran"


@pytest.fixture
def bomb(canary: Path) -> Callable[[Path], None]:
    """Return a function that writes a pickle, and one in torch's format, that would make the canary."""
    import torch

    def write(path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix in (".pkl", ".pickle"):
            path.write_bytes(pickle.dumps(Touch(canary)))
        else:
            torch.save({"weights": Touch(canary)}, path)

    return write
