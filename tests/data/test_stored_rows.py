"""Rows that are too many for the memory stay on disk, and are the same rows in the same splits."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from copy import copy
from pathlib import Path
from typing import Any

import pytest

from adapterzoo.data import json_files, json_window, rows, stored_rows
from adapterzoo.data.json_files import read_json
from adapterzoo.data.record_file import RecordFile, RecordWriter
from adapterzoo.data.split import Splits, load_splits
from adapterzoo.data.stored_rows import RowCollector, StoredRows
from adapterzoo.data.tables import read_file
from adapterzoo.data_row import SPLIT_NAMES, DataRow, Turn
from adapterzoo.errors import UserError
from adapterzoo.recipe.schema import DataSection

Read = Callable[..., tuple[Splits, list[str]]]
SECONDS_AGO = 10  # rows of a file that has just been written are not kept
# Rows that repeat, rows with the same question, groups of one row and of many, and text of several alphabets.
WORDS = ("go", "é中", "went", "x\ty", "ü" * 5, "a\nb", "")
SETTINGS: dict[str, dict[str, Any]] = {
    "shares": {},
    "groups": {"split": {"train": 0.5, "validation": 0.2, "test": 0.3, "group_by": "document"}},
    "shuffled": {"shuffle": 3},
    "shuffled and limited": {"shuffle": 3, "limit": 40},
    "limited": {"limit": 40, "filter": {"document": ["a", "b"]}},
    "files of their own": {"split": {"train": "source", "test": "other", "validation": 0.2, "duplicates": "drop"}},
}


@pytest.fixture
def read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Return a function that reads two files by some settings, with the rows in memory or on disk."""
    monkeypatch.setenv("ADAPTERZOO_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("adapterzoo.data.sources.MIN_KEPT_BYTES", 0)
    generator = random.Random(0)
    for name, count in (("source", 120), ("other", 40)):
        lines = (
            {
                "question": f"{generator.choice(WORDS)}{generator.randrange(50)}",
                "answer": generator.choice(WORDS),
                "document": generator.choice("abcde"),
            }
            for _ in range(count)
        )
        path = tmp_path / f"{name}.jsonl"
        path.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        os.utime(path, (time.time() - SECONDS_AGO,) * 2)
    time_ns = time.time_ns  # files have also a time of their last change that no program can set
    monkeypatch.setattr("adapterzoo.digests.time.time_ns", lambda: time_ns() + SECONDS_AGO * 10**9)

    def load(settings: dict[str, Any], *, on_disk: bool) -> tuple[Splits, list[str]]:
        monkeypatch.setattr(stored_rows, "MAX_BYTES_IN_MEMORY", 0 if on_disk else 2**26)
        monkeypatch.setattr(stored_rows, "SORTED_ROWS", 2 if on_disk else 10_000)
        monkeypatch.setattr(rows, "MAX_LIMIT_IN_MEMORY", 100 if len(settings) > 1 else 0)
        split = {
            name: [str(tmp_path / f"{part}.jsonl")] if isinstance(part, str) and name in SPLIT_NAMES else part
            for name, part in {"duplicates": "drop", **settings.get("split", {})}.items()
        }
        source = {} if "other.jsonl" in str(split) else {"source": str(tmp_path / "source.jsonl")}
        said: list[str] = []
        section = DataSection(**{"format": "qa", **source, **settings, "split": split})
        return load_splits(section, said.append), said

    return load


@pytest.mark.parametrize("name", SETTINGS)
def test_rows_on_disk_are_the_rows_in_memory(read: Read, name: str) -> None:
    expected, said = read(SETTINGS[name], on_disk=False)
    for _ in range(2):  # the second time, from the file that the first has kept
        stored, said_again = read(SETTINGS[name], on_disk=True)
        assert all(isinstance(getattr(stored, part), StoredRows) for part in SPLIT_NAMES)
        assert (said_again, stored.fingerprint, stored.format) == (said, expected.fingerprint, expected.format)
        for part in SPLIT_NAMES:
            assert [*getattr(stored, part)] == getattr(expected, part)
            places = [(row.place, row.group) for row in getattr(expected, part)]
            assert [(row.place, row.group) for row in copy(getattr(stored, part))] == places


def test_rows_are_read_once_unless_their_file_or_the_kept_rows_change(
    read: Read, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    open_source = rows.open_source
    monkeypatch.setattr(rows, "open_source", lambda *given: (opened.append(given), open_source(*given))[1])
    first, _ = read({}, on_disk=True)
    read({"max_length": 9}, on_disk=True)
    assert len(opened) == 1, "max_length does not change the rows"
    (kept,) = (tmp_path / "cache" / "rows").iterdir()
    kept.write_bytes(kept.read_bytes()[:-9] + b"x" * 9)
    again, _ = read({}, on_disk=True)
    assert (len(opened), again.fingerprint) == (2, first.fingerprint)
    with (tmp_path / "source.jsonl").open("a", encoding="utf-8") as file:
        file.write('\n{"question": "new", "answer": "row"}')
    changed, _ = read({}, on_disk=True)
    assert (len(opened), changed.fingerprint != first.fingerprint) == (3, True)


def test_a_row_of_any_task_is_what_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADAPTERZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(stored_rows, "MAX_BYTES_IN_MEMORY", 0)
    more = (("rejected", "no"), ("spans", ((0, 1), (2, 3))), ("score", 0.1), ("wanted", True), ("none", None))
    kept = [
        DataRow((Turn("user", "a"), Turn("assistant", "b")), place="x:1", group="g", more=more),
        DataRow((Turn("assistant", "\ud800"),), raw=True),
        DataRow((), more=more[:1]),
    ]
    with RowCollector() as collector:
        for row in kept:
            collector.add(row)
        stored = collector.rows(None, {})
    assert isinstance(stored, StoredRows)
    assert [(row, row.place, row.group) for row in stored] == [(row, row.place, row.group) for row in kept]
    assert [*stored[1:]] == kept[1:]
    assert stored[-1] == kept[-1]


def test_a_cache_that_cannot_be_written_is_named(read: Read, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"cache/rows: cannot be written.*Set ADAPTERZOO_CACHE to another folder"):
        read({}, on_disk=True)


def test_a_file_that_is_read_for_hours_is_not_removed_by_other_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the time counted when it was opened: a process that a long run started later did not find its rows."""
    monkeypatch.setenv("ADAPTERZOO_CACHE", str(tmp_path))
    monkeypatch.setattr(stored_rows, "MAX_BYTES_IN_MEMORY", 0)

    def keep(answer: str) -> StoredRows:
        with RowCollector() as collector:
            collector.add(DataRow.pair("a", answer))
            rows = collector.rows(None, {})
        assert isinstance(rows, StoredRows)
        return rows

    unused, used = keep("unused"), keep("used")
    assert [kept[0].completion for kept in (unused, used)] == ["unused", "used"]
    now = time.monotonic() + 2 * stored_rows.RECENT_SECONDS
    monkeypatch.setattr(time, "monotonic", lambda: now)
    for kept in (unused, used):
        os.utime(kept.file.path, (time.time() - 2 * stored_rows.RECENT_SECONDS,) * 2)
    assert used[0].completion == "used"
    for number in range(stored_rows.MAX_FILES):
        keep(f"{number}")
    assert not unused.file.path.exists()
    assert StoredRows(RecordFile(used.file.path))[0].completion == "used"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has this device")
def test_a_full_disk_is_named_and_what_helps() -> None:
    """Closing the file fails too: the message was "output: No space left on device"."""

    def fill() -> None:
        with RecordWriter(Path("/dev/full"), stored_rows._schema()) as writer:
            writer.add(*stored_rows._record(DataRow.pair("a", "b" * 100_000)))
            writer.close({})

    with pytest.raises(UserError, match=r"/dev: the rows.*No space left on device\. Make room on this disk"):
        fill()


def test_what_is_begun_and_not_finished_leaves_no_file(read: Read, tmp_path: Path) -> None:
    with (tmp_path / "source.jsonl").open("a", encoding="utf-8") as file:
        file.write('\n{"question": ["a", "list"], "answer": "b"}')
    with pytest.raises(UserError, match=r"source.jsonl:121: 'question' is a list"):
        read({}, on_disk=True)
    assert not [*(tmp_path / "cache" / "rows").iterdir()]


def test_a_long_list_of_json_is_read_as_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    items = [
        {"question": f"é{number}" * number, "answer": str(number), "n": [1.50, {"a": None}]} for number in range(30)
    ]
    path = tmp_path / "rows.json"
    path.write_text(f" \n{json.dumps(items, indent=1)}\n", encoding="utf-8")
    expected = [*read_json(path)[1]]
    monkeypatch.setattr(json_files, "MAX_BYTES_AT_ONCE", 50)
    monkeypatch.setattr(json_window, "WINDOW_CHARACTERS", 7)
    assert [*read_json(path)[1]] == expected
    for text, what in (
        ('[{"a": "b"}, {"a" "b"}]', "row 2: is not JSON"),
        ('[{"a": "b"} {"a": "b"}]', r"rows.json:1: is not JSON: expecting , or \]"),
        ('[{"a": "b"},\n 1]', "holds no list of objects"),
        ('[{"a": "b"}]\n\nx', "rows.json:3: is not JSON: extra data"),
        ('[{"a": "b"},\n {"a": "b', "row 2: is not JSON"),
    ):
        path.write_text(text + " " * 60, encoding="utf-8")
        with pytest.raises(UserError, match=what):
            [*read_json(path)[1]]
    monkeypatch.setattr(json_files, "MAX_DOCUMENT_BYTES", 50)
    path.write_text(json.dumps({"data": items}), encoding="utf-8")
    with pytest.raises(UserError, match=r"would be read at once.*JSON lines"):
        read_json(path)


def test_a_parquet_file_of_one_group_of_rows_is_not_read_whole(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    generator = random.Random(0)
    texts = [f"{number} {generator.randbytes(4000).hex()}" for number in range(4000)]
    table = pyarrow.table({"question": texts})
    parquet.write_table(table, tmp_path / "x.parquet", row_group_size=4000, write_batch_size=16)
    before, peak = pyarrow.total_allocated_bytes(), 0
    for number, (_, cells) in enumerate(read_file(tmp_path / "x.parquet")[1]):
        assert cells["question"] == texts[number]
        peak = max(peak, pyarrow.total_allocated_bytes() - before)
    assert peak < 12_000_000, "the rows have 32 MB"


READ_UNDER_A_LIMIT = """
import resource, sys
import numpy, pyarrow, xxhash
from adapterzoo.data import stored_rows
from adapterzoo.data.split import load_splits
from adapterzoo.recipe.schema import DataSection

stored_rows.MAX_BYTES_IN_MEMORY = 20_000_000
pyarrow.array(["a"])  # imports what it needs
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
limit = 1024 * int(status["VmData"].split()[0]) + {more}
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
rows = load_splits(DataSection(source={path!r}, format="text", shuffle=1)).train
print(type(rows).__name__, len(rows), rows[0].turns[0].content[:5])
"""


@pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_DATA counts all memory only on Linux")
def test_a_file_that_is_larger_than_the_memory_is_read(tmp_path: Path) -> None:
    path, text = tmp_path / "big.jsonl", "word " * 20_000
    with path.open("w", encoding="utf-8") as file:
        for number in range(1000):
            file.write(json.dumps({"text": f"{number} {text}"}) + "\n")
    assert path.stat().st_size > 100_000_000
    program = READ_UNDER_A_LIMIT.format(path=str(path), more=75_000_000)
    environment = {**os.environ, "ADAPTERZOO_CACHE": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, env=environment)
    assert done.stdout.startswith("StoredRows 800 "), done.stderr
