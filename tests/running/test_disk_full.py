"""Check that nothing is lost if the disk is full: on a small file system, which a program fills.

ADAPTERZOO_DISK_FULL=full tries twenty sizes.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from cells import Bench
from click.testing import Result

from adapterzoo.errors import UserError
from adapterzoo.results.note import NOTE
from adapterzoo.results.store import Store
from adapterzoo.running import room
from adapterzoo.training import checkpoints

SETTINGS = ("--set", "train.steps=4", "--set", "train.save_steps=1", "--set", "evaluate.base=false", "--jobs", "1")
SIZE = 4 * 2**20
# Kilobytes that are left when the run begins.
ROOM = range(20, 820, 40) if os.environ.get("ADAPTERZOO_DISK_FULL") else (600,)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """Return the folder of a small file system."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("only root may mount a small file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("undisturbed") / "out"


def content(out: Path) -> dict[str, bytes]:
    files = [path for path in out.rglob("*") if path.is_file()]
    names = ("adapter", "predictions.jsonl", "recipe.yaml", "tuning.journal")
    relative = {path: path.relative_to(out) for path in files}
    return {str(name): path.read_bytes() for path, name in relative.items() if {*name.parts} & {*names}}


@pytest.mark.parametrize("kilobytes", ROOM)
def test_a_run_on_a_full_disk_stops_and_the_same_command_goes_on(
    kilobytes: int, disk: Path, undisturbed: Path, write_recipe: Callable[..., Path],
    adapterzoo: Callable[..., Result],
) -> None:  # fmt: skip
    recipe = write_recipe("ia3, lora")
    if not undisturbed.exists():
        assert adapterzoo("run", recipe, *SETTINGS, "--out", undisturbed).exit_code == 0
    (disk / "other").write_bytes(bytes(SIZE - 1000 * kilobytes))
    out = disk / "out"
    stopped = adapterzoo("run", recipe, *SETTINGS, "--out", out)
    finished = {path: path.stat().st_mtime_ns for path in out.glob("*/seed-0/result.json")}
    saved = [found.step for path in out.glob("*/seed-0/checkpoints") if (found := checkpoints.find(path)) is not None]
    if kilobytes < 700:
        assert stopped.exit_code == 1
        text = " ".join(stopped.stderr.split())
        assert f"error: {out}: the disk is full: " in text
        assert "on this disk, and run the same command again to go on." in text
    if kilobytes == 600:
        assert [path.parts[-3] for path in finished] == ["ia3"]
        assert saved == [2], "the last good checkpoint"
    (disk / "other").unlink()
    done = adapterzoo("run", recipe, *SETTINGS, "--out", out)
    assert done.exit_code == 0, done.output
    assert content(out) == content(undisturbed)
    assert all(path.stat().st_mtime_ns == before for path, before in finished.items()), "they are not run again"


def test_without_any_room_the_folder_is_named_and_nothing_is_changed(disk: Path) -> None:
    store = Store(disk / "out")
    store.begin({"name": "x"}, {"model": "m"})
    store.release()
    note = (disk / "out" / NOTE).read_bytes()
    with suppress(OSError):
        (disk / "other").write_bytes(bytes(SIZE))
    with pytest.raises(UserError, match=r"out: cannot be written: No space left on device\. Free some space"):
        Store(disk / "out").begin({"name": "y"}, {"model": "m"})
    assert (disk / "out" / NOTE).read_bytes() == note
    assert {path.name for path in (disk / "out").iterdir()} == {NOTE, "recipe.yaml", ".lock"}


def test_the_room_that_a_run_needs_is_estimated_before(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe = write_recipe("lora, ia3", steps="2")
    shown = adapterzoo("check", recipe)
    assert "disk: about 8." in shown.stdout
    monkeypatch.setattr(room, "_free", lambda folder: 5_000_000)
    done = adapterzoo("run", recipe, "--out", tmp_path / "out")
    text = " ".join(done.stderr.split())
    assert re.search(r"the run needs about 8\.\d+MB of disk space, but 5\.00MB are free in \S+/out ", text)
    assert done.exit_code == 0, "it is an estimate"
    again = adapterzoo("run", recipe, "--out", tmp_path / "out")
    assert "disk space" not in again.stderr, "nothing is left to be done"
    prepared = Bench(recipe, "train.save_steps=1").prepared
    more = room.needed(prepared, prepared.cells) - room.needed(Bench(recipe).prepared, prepared.cells)
    assert more == 12 * 3 * sum(prepared.trainable.values()), "checkpoints: two are kept while one is written"
