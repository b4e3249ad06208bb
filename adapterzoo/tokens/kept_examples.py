"""Keep the training examples of a task in a file, if their rows are too many for the memory."""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from adapterzoo.data.record_file import RecordFile, RecordWriter, new_record_file
from adapterzoo.data.stored_rows import StoredRows
from adapterzoo.data_row import SPLIT_NAMES, DataRow
from adapterzoo.digests import name_by_digest, undamaged
from adapterzoo.files import cache_folder
from adapterzoo.tasks.contract import EncodeInput
from adapterzoo.tasks.examples import longest_sequence
from adapterzoo.terminal import Progress
from adapterzoo.tokens.cache import MAX_LARGE_FILES, RECENT_SECONDS, settings_key
from adapterzoo.tokens.stored_examples import Stored

if TYPE_CHECKING:
    import numpy
    import pyarrow

T = TypeVar("T")
Say = Callable[[str], None]
Reader = Callable[[str, Sequence[DataRow], Say], Iterator[tuple[int, T]]]
"""split, its rows, and what is called with messages -> the examples, each with the position of its row"""


def read_splits(given: EncodeInput[Any], read: Reader[T], kinds: Sequence[type]) -> dict[str, Any]:
    """Return the examples of each split, in lists; training examples in a file if their rows are in one.

    The file is used again as long as the rows, the tokenizer and the settings are the same, and the code in the folders
    of the task, of ``read``, of the functions that it is bound to, and of the examples.

    Args:
        given: what the task was given.
        read: yields the examples of a split. It must depend on nothing but its arguments and ``given``.
        kinds: the classes of the examples, and of all that they are made of beside numbers, texts, lists and tuples.

    Raises:
        UserError: the file cannot be written; and what ``read`` raises.
    """
    splits: dict[str, Any] = {}
    for split in SPLIT_NAMES:
        rows = getattr(given.rows, split)
        if split == "train" and isinstance(rows, StoredRows):
            splits[split] = _kept(given, read, kinds, rows)
        else:
            splits[split] = [example for _, example in read(split, rows, given.say)]
    return splits


class KeptExamples(Stored[T]):
    """Training examples of any task in a file that :func:`read_splits` wrote."""

    def __init__(self, file: RecordFile, rows: Sequence[DataRow], kinds: Sequence[type]) -> None:
        """Take all examples of a file.

        Args:
            file: the file.
            rows: the rows of the split.
            kinds: see :func:`read_splits`.
        """
        super().__init__(file, 0, len(file), rows)
        self._kinds = kinds
        self._change: Callable[[int, T], T] | None = None

    def changed(self, change: Callable[[int, T], T]) -> Self:
        """Return the same examples, but each changed when it is asked for; its numbers of tokens must stay the same.

        Args:
            change: returns the new example from its place and the example; a function that can be pickled.
        """
        other = copy(self)
        other._change = change
        return other

    def _example(self, index: int) -> T:
        example = super()._example(index)
        return example if self._change is None else self._change(index, example)

    def _made(self, row: DataRow, parts: Sequence[Any]) -> T:
        example: T = _Reader(parts[-1].as_py(), row, self._kinds).load()
        return example

    @property
    def sizes(self) -> numpy.ndarray:
        """Number of tokens of each example."""
        return self.column("size")

    @property
    def longest(self) -> numpy.ndarray:
        """Number of tokens of the longest sequence of each example."""
        return self.column("longest")

    def learned(self) -> int:
        """Return the number of tokens in the loss, in all examples."""
        return int(self.column("learned").sum())


def _kept(given: EncodeInput[Any], read: Reader[T], kinds: Sequence[type], rows: StoredRows) -> KeptExamples[T]:
    """Return the training examples from the cache; write them first if it does not have them."""
    path = cache_folder() / "tokens" / f"{_key(given, read, kinds)}.arrow"
    if (known := undamaged(path)) is None:
        said: list[str] = []
        progress = Progress("rows of train tokenized", len(rows))
        with new_record_file(path.parent) as new, RecordWriter(new, _schema()) as writer:
            for number, example in read("train", rows, said.append):
                progress.add()
                written = _written(example)
                counts = example.size, longest_sequence(example), sum(example.tokens[1])  # type: ignore[attr-defined]
                writer.add((number, *counts, written), len(written))
            writer.close({"said": said})
            known = name_by_digest(new, path, MAX_LARGE_FILES, RECENT_SECONDS)
    file = RecordFile(known)
    for message in file.notes["said"]:
        given.say(message)
    return KeptExamples(file, rows, kinds)


def _key(given: EncodeInput[Any], read: Reader[Any], kinds: Sequence[type]) -> str:
    """Return a hash of what the examples depend on: what the task was given, and the code that makes them."""
    bound = [*getattr(read, "args", ()), *getattr(read, "keywords", {}).values()]
    # Many tasks share a reader, and give it a function of their own.
    functions = [getattr(read, "func", read), *filter(inspect.isroutine, bound)]
    task = [] if given.task is None else [given.task]
    options: Mapping[str, Any] = given.options.model_dump()
    more = {
        "task": [one.name for one in task],
        "functions": [f"{function.__module__}.{function.__qualname__}" for function in functions],
        "options": options,
        "code": _code_digest([*functions, *kinds, *map(type, task)]),
        "config": json.loads(given.config.to_json_string()) if given.config is not None else None,
    }
    return settings_key(given.tokenizer, given.data, given.rows.fingerprint, more)


def _code_digest(parts: Sequence[Any]) -> str:
    """Return a hash of the code in the folders of functions and classes; of packages, also in the folders below."""
    files = {getattr(sys.modules.get(part.__module__), "__file__", None) for part in parts}
    found = hashlib.sha256()
    for folder in sorted({Path(file).parent for file in files if file}):
        pattern = "**/*.py" if (folder / "__init__.py").exists() else "*.py"
        for path in sorted(folder.glob(pattern)):
            found.update(path.read_bytes())
    return found.hexdigest()


def _schema() -> pyarrow.Schema:
    import pyarrow

    counts = dict.fromkeys(("row", "size", "longest", "learned"), pyarrow.int64())
    return pyarrow.schema({**counts, "example": pyarrow.binary()})


def _the_row() -> DataRow:
    """Stand for the row of an example in a file."""
    raise NotImplementedError


class _Writer(pickle.Pickler):
    """Writes an example without its row, which is in the file of rows."""

    def reducer_override(self, value: Any) -> Any:
        return (_the_row, ()) if isinstance(value, DataRow) else NotImplemented


class _Reader(pickle.Unpickler):
    """Reads an example. It makes objects of some classes only: a file may have been changed by somebody else."""

    def __init__(self, written: bytes, row: DataRow, kinds: Sequence[type]) -> None:
        super().__init__(io.BytesIO(written))
        self._row, self._kinds = row, kinds

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == (_the_row.__module__, _the_row.__qualname__):
            return lambda: self._row
        for kind in self._kinds:
            if (module, name) == (kind.__module__, kind.__qualname__):
                return kind
        raise pickle.UnpicklingError(f"examples have a {module}.{name}, which is not one of their kinds")


def _written(example: Any) -> bytes:
    target = io.BytesIO()
    _Writer(target, pickle.HIGHEST_PROTOCOL).dump(example)
    return target.getvalue()
