"""Token ids on disk: made once for the same rows, tokenizer and format, and taken from there ever after."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

from adapterzoo.data.split import Splits
from adapterzoo.data_row import SPLIT_NAMES
from adapterzoo.digests import file_digest
from adapterzoo.files import cache_folder
from adapterzoo.tokens.encode import Encoded, Encoder, Example

# Raised when the same rows become other tokens than before.
VERSION = 2
MAX_FILES = 20
SETTINGS = ("system", "chat_template", "loss_on", "max_length", "truncate")


def encode_splits(encoder: Encoder, splits: Splits) -> Encoded:
    """As :meth:`Encoder.encode_splits`, from the cache where that has them; what was dropped is said all the same.

    Raises:
        UserError: nothing is left of a split.
    """
    folder, key = cache_folder() / "tokens", _key(encoder, splits)
    if (found := _read(folder, key, splits)) is not None:
        examples, said = found
        for line in said:
            encoder.say(line)
        return encoder.collect(examples, said, splits.fingerprint)
    made = encoder.encode_splits(splits)
    _write(folder, key, made, splits)
    return made


def _key(encoder: Encoder, splits: Splits) -> str:
    """By content: of the rows, of the tokenizer with its template, and what the recipe says of the format."""
    tokenizer, data = encoder.tokenizer, encoder.data
    fast = getattr(tokenizer, "backend_tokenizer", None)
    described = {
        "version": VERSION,
        "rows": splits.fingerprint,
        "tokenizer": fast.to_str() if fast is not None else sorted(tokenizer.get_vocab().items()),
        "kind": type(tokenizer).__name__,
        "special": tokenizer.special_tokens_map,
        "template": tokenizer.chat_template,
        "settings": {name: getattr(data, name) for name in SETTINGS},
    }
    # default: special tokens may be objects of their own
    return hashlib.sha256(json.dumps(described, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _read(folder: Path, key: str, splits: Splits) -> tuple[dict[str, list[Example]], list[str]] | None:
    import pyarrow
    from pyarrow import parquet

    if (path := _whole(folder, key)) is None:
        return None
    try:
        table = parquet.read_table(path)
        said = json.loads(table.schema.metadata[b"said"])
        examples: dict[str, list[Example]] = {name: [] for name in SPLIT_NAMES}
        columns = [table[name].to_pylist() for name in ("part", "row", "prompt", "completion", "learned")]
        for part, row, prompt, completion, learned in zip(*columns, strict=True):
            examples[part].append(Example(getattr(splits, part)[row], prompt, completion, learned))
    except (OSError, pyarrow.ArrowException, ValueError, KeyError, TypeError, IndexError):
        return None  # damaged: made again
    os.utime(path)
    return examples, said


def _whole(folder: Path, key: str) -> Path | None:
    """Return the cached file of a key that is what was written, by the digest in its name; damaged ones are removed."""
    for path in folder.glob(f"{key}-*.parquet"):
        try:
            if path.stem.rpartition("-")[2] == file_digest(path):
                return path
            path.unlink()
        except OSError:
            continue
    return None


def _write(folder: Path, key: str, encoded: Encoded, splits: Splits) -> None:
    """Put down in one go, beside what other runs put there; a cache that cannot be written is none."""
    import pyarrow
    from pyarrow import parquet

    columns: dict[str, list[Any]] = {name: [] for name in ("part", "row", "prompt", "completion", "learned")}
    for part in SPLIT_NAMES:
        numbers = {id(row): number for number, row in enumerate(getattr(splits, part))}
        for example in getattr(encoded, part):
            row = (part, numbers[id(example.row)], example.prompt, example.completion, example.learned)
            for values, value in zip(columns.values(), row, strict=True):
                values.append(value)
    ids = pyarrow.list_(pyarrow.int32())
    kinds = (pyarrow.string(), pyarrow.int64(), ids, ids, pyarrow.list_(pyarrow.bool_()))
    schema = pyarrow.schema(
        list(zip(columns, kinds, strict=True)), metadata={"said": json.dumps(encoded.said, ensure_ascii=True)}
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        handle, aside = tempfile.mkstemp(dir=folder, suffix=".new")
        os.close(handle)
        parquet.write_table(pyarrow.table(columns, schema=schema), aside, compression="zstd")
        os.replace(aside, folder / f"{key}-{file_digest(Path(aside))}.parquet")
        for old in sorted(folder.glob("*.parquet"), key=lambda one: one.stat().st_mtime)[:-MAX_FILES]:
            old.unlink(missing_ok=True)
    except OSError:
        return
