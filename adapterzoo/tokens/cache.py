"""Keep token ids on disk, so that the same rows, tokenizer and settings are only tokenized once."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from adapterzoo.data.record_file import RecordFile, RecordWriter, new_record_file
from adapterzoo.data.stored_rows import StoredRows
from adapterzoo.data_row import SPLIT_NAMES
from adapterzoo.digests import name_by_digest, undamaged
from adapterzoo.files import cache_folder, new_cache_file
from adapterzoo.tasks.contract import DataSettings, Rows
from adapterzoo.tokens.encode import Encoder
from adapterzoo.tokens.encoded import Encoded, Example
from adapterzoo.tokens.stored_examples import ExampleWriter, StoredExamples, schema

# Raise the version when a change in the code gives the same rows other tokens.
VERSION = 2
MAX_FILES = 20  # older files are removed
MAX_LARGE_FILES = 3  # of those of rows that are too many for the memory
RECENT_SECONDS = 3600  # files that were used so recently are not removed
# Settings of the recipe's data section that change the tokens.
SETTINGS = ("system", "chat_template", "loss_on", "max_length", "truncate")


def encode_splits(encoder: Encoder, splits: Rows) -> Encoded:
    """Return the same as :meth:`Encoder.encode_splits`, but read it from the cache if it has the examples.

    Raises:
        UserError: a split has no row with tokens to learn.
    """
    folder, key = cache_folder() / "tokens", settings_key(encoder.tokenizer, encoder.data, splits.fingerprint)
    if any(isinstance(getattr(splits, name), StoredRows) for name in SPLIT_NAMES):
        return _on_disk(encoder, splits, folder / f"{key}.arrow")
    if (cached := _read(folder, key, splits)) is not None:
        examples, notes = cached
        for note in notes:
            encoder.say(note)
        return encoder.collect(examples, notes, splits.fingerprint)
    encoded = encoder.encode_splits(splits)
    _write(folder, key, encoded, splits)
    return encoded


def _on_disk(encoder: Encoder, splits: Rows, path: Path) -> Encoded:
    """Return the examples of many rows, whose tokens stay in a file of the cache.

    Raises:
        UserError: a split has no row with tokens to learn, or the file cannot be written.
    """
    if (kept := undamaged(path)) is None:
        with new_record_file(path.parent) as new, RecordWriter(new, schema()) as writer:
            examples = ExampleWriter(writer)
            notes = encoder.encode_rows(splits, examples.add)
            writer.close({"said": notes, "counts": examples.counts})
            kept = name_by_digest(new, path, MAX_LARGE_FILES, RECENT_SECONDS)
        file = RecordFile(kept)
    else:
        file = RecordFile(kept)
        for note in file.notes["said"]:
            encoder.say(note)
    counts = [file.notes["counts"].get(name, 0) for name in SPLIT_NAMES]
    firsts = accumulate(counts, initial=0)
    stored: dict[str, Sequence[Example]] = {
        name: StoredExamples(file, first, count, getattr(splits, name))
        for name, first, count in zip(SPLIT_NAMES, firsts, counts, strict=False)
    }
    return encoder.collect(stored, file.notes["said"], splits.fingerprint)


def settings_key(tokenizer: Any, data: DataSettings, rows: str, more: Mapping[str, Any] | None = None) -> str:
    """Return a hash of what tokens depend on.

    Args:
        tokenizer: the tokenizer with its chat template.
        data: settings of the recipe.
        rows: hash of the content of the rows.
        more: what else they depend on, as JSON has it.
    """
    fast = getattr(tokenizer, "backend_tokenizer", None)
    content = {
        **(more or {}),
        "version": VERSION,
        "rows": rows,
        "tokenizer": fast.to_str() if fast is not None else sorted(tokenizer.get_vocab().items()),
        "kind": type(tokenizer).__name__,
        "special": tokenizer.special_tokens_map,
        "template": tokenizer.chat_template,
        "settings": {name: getattr(data, name) for name in SETTINGS},
    }
    # default=str is for special tokens that are not strings.
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _read(folder: Path, key: str, splits: Rows) -> tuple[dict[str, list[Example]], list[str]] | None:
    """Return the examples of each split and the messages about them; None if the cache does not have them."""
    import pyarrow
    from pyarrow import parquet

    if (path := undamaged(folder / f"{key}.parquet")) is None:
        return None
    try:
        table = parquet.read_table(path)
        notes = json.loads(table.schema.metadata[b"said"])
        examples: dict[str, list[Example]] = {name: [] for name in SPLIT_NAMES}
        columns = [table[name].to_pylist() for name in ("part", "row", "prompt", "completion", "learned")]
        for split, row, prompt, completion, learned in zip(*columns, strict=True):
            examples[split].append(Example(getattr(splits, split)[row], prompt, completion, learned))
    except (OSError, pyarrow.ArrowException, ValueError, KeyError, TypeError, IndexError):
        return None  # the file is damaged, so the rows are tokenized again
    os.utime(path)
    return examples, notes


def _write(folder: Path, key: str, encoded: Encoded, splits: Rows) -> None:
    """Write the examples to the cache. If it cannot be written, do nothing: the rows are tokenized again."""
    import pyarrow
    from pyarrow import parquet

    columns: dict[str, list[Any]] = {name: [] for name in ("part", "row", "prompt", "completion", "learned")}
    for split in SPLIT_NAMES:
        numbers = {id(row): number for number, row in enumerate(getattr(splits, split))}
        for example in getattr(encoded, split):
            row = (split, numbers[id(example.row)], example.prompt, example.completion, example.learned)
            for values, value in zip(columns.values(), row, strict=True):
                values.append(value)
    ids = pyarrow.list_(pyarrow.int32())
    kinds = (pyarrow.string(), pyarrow.int64(), ids, ids, pyarrow.list_(pyarrow.bool_()))
    schema = pyarrow.schema(
        list(zip(columns, kinds, strict=True)), metadata={"said": json.dumps(encoded.notes, ensure_ascii=True)}
    )
    try:
        # Write to another name first, because other runs read this folder at the same time.
        with new_cache_file(folder) as new:
            parquet.write_table(pyarrow.table(columns, schema=schema), new, compression="zstd")
            name_by_digest(new, folder / f"{key}.parquet", MAX_FILES)
    except OSError:
        return
