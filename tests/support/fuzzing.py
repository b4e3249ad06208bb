"""Random and damaged inputs for all that reads files of users and strangers; only documented errors may come out.

Each target takes an input as bytes. An input that once found something is kept as a file in ``fuzz_corpus/<target>/``.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, Verbosity, given, seed, settings
from hypothesis import strategies as st
from shapes import EXAMPLES

from adapterzoo.errors import AdapterzooError
from adapterzoo.machine.limits import stopped_after

CORPUS = Path(__file__).parent / "fuzz_corpus"
FROZEN = Path(__file__).parent / "frozen" / "schema-2" / "lora" / "seed-0"
MAX_SECONDS = 20  # for one input
Inputs = st.SearchStrategy[bytes]

RECIPE = b"""\
name: tiny
model: {name: some/model, dtype: float32, quantization: none}
data:
  source: rows.csv
  columns: {question: q, answer: a}
  split: {train: 0.6, validation: 0.2, test: 0.2, group_by: doc}
  filter: {lang: [en, 3]}
  template: "{q} and {system}"
  max_length: 64
train: {steps: 6, learning_rate: 1e-4, warmup: 0.1, arguments: {seed: 1}}
evaluate: {metrics: [loss, exact_match], shots: 2, general_text: shipped}
tune: {r: {values: [2, 4], trials: 2}, learning_rate: {low: 1e-5, high: 1e-3}}
budget: {trainable_params: 2.5M}
methods: [lora, &x {name: lora, label: wide, r: 64}, {<<: *x, label: other}, {name: adalora, target_modules: ".*q"}]
seeds: [0, 1]
jobs: auto
"""
SETS = (b"train.steps=10", b"methods=[lora, {name: ia3}]", b"task.name=classification", b"data={source: rows.csv}")
WORDS = (
    "lora", "name", "label", "r", "train", "steps", "methods", "data", "source", "columns", "split", "task", "model",
    "question", "answer", "messages", "conversations", "role", "content", "from", "value", "user", "assistant", "text",
    "prompt", "chosen", "rejected", "completion", "label", "words", "tags", "context", "answers", "answer_start",
    "schema", "metrics", "status", "ok", "recipe", "fingerprints", "environment", "findings", "adjusted", "history",
    "<<", "*x", "&x", "!!int", "???", "{", "}", "[", "]", ":", ",", "-", "|", "\n", "\t", '"', "'", "#", "\0", "\ufeff",
    "null", "true", "NaN", "Infinity", "-1", "0", "1e999", "9" * 30, "\ud83d", "\\ud83d", "é", "../x", "rows.csv",
)  # fmt: skip


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


TOKENS = st.one_of(st.sampled_from([_encoded(word) for word in WORDS]), st.binary(max_size=4))
EDITS = st.lists(
    st.tuples(
        st.sampled_from(["insert", "delete", "replace", "double", "cut"]), st.floats(0, 1), st.integers(0, 40), TOKENS
    ),
    min_size=1,
    max_size=6,
)
SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=12), st.sampled_from([*WORDS])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner, max_size=4), st.dictionaries(st.sampled_from(WORDS) | st.text(max_size=4), inner, max_size=5)
    ),
    max_leaves=12,
)


def edited(content: bytes, edits: list[tuple[str, float, int, bytes]]) -> bytes:
    """Return a content after some edits: each is its kind, its place as a share, a length and a token."""
    for kind, share, length, token in edits:
        at = int(share * len(content))
        before, part, after = content[:at], content[at : at + length], content[at + length :]
        if kind == "insert":
            content = before + token + part + after
        elif kind == "delete":
            content = before + after
        elif kind == "replace":
            content = before + token + after
        elif kind == "double":
            content = before + part + part + after
        else:
            content = before
    return content


def mutated(*contents: bytes) -> Inputs:
    """Return inputs that are edits of some valid ones."""
    return st.builds(edited, st.sampled_from(contents), EDITS)


def as_json(value: Any) -> bytes:
    return _encoded(json.dumps(value, ensure_ascii=False, default=str))


def changed(values: Mapping[str, Any]) -> Inputs:
    """Return JSON objects in which some values, at any depth, are replaced."""

    def replaced(value: Any, path: list[int], new: Any) -> Any:
        if not path or not isinstance(value, (dict, list)) or not value:
            return new
        keys = list(value) if isinstance(value, dict) else list(range(len(value)))
        key = keys[path[0] % len(keys)]
        items = value.items() if isinstance(value, dict) else enumerate(value)
        pairs = [(name, replaced(item, path[1:], new) if name == key else item) for name, item in items]
        return dict(pairs) if isinstance(value, dict) else [item for _, item in pairs]

    def change(changes: list[tuple[list[int], Any]]) -> bytes:
        value: Any = dict(values)
        for path, new in changes:
            value = replaced(value, path, new)
        return as_json(value)

    paths = st.lists(st.integers(0, 60), min_size=1, max_size=4)
    return st.builds(change, st.lists(st.tuples(paths, VALUES), min_size=1, max_size=3))


@dataclass(frozen=True)
class Target:
    """One reader of files."""

    read: Callable[[Path, bytes], None]
    """is called with an empty folder and an input"""
    inputs: Callable[[], Inputs]
    share: int
    """share of all inputs, in thousandths"""


def read_recipe(folder: Path, content: bytes) -> None:
    from adapterzoo.recipe.reading import load_recipe

    (folder / "rows.csv").write_text("q,a\nx,y\n")
    (folder / "recipe.yaml").write_bytes(content)
    load_recipe(folder / "recipe.yaml")


def read_set(folder: Path, content: bytes) -> None:
    from adapterzoo.recipe.reading import load_recipe

    (folder / "rows.csv").write_text("q,a\nx,y\n")
    (folder / "recipe.yaml").write_bytes(RECIPE)
    load_recipe(folder / "recipe.yaml", content.decode("utf-8", "replace").split("\x1e"))


def read_data(suffix: str) -> Callable[[Path, bytes], None]:
    """Return a function that reads an input as a data file: with the formats of every task, and for `init`."""

    def read(folder: Path, content: bytes) -> None:
        from adapterzoo.data.split import load_splits
        from adapterzoo.recipe.schema import DataSection
        from adapterzoo.starter import starter
        from adapterzoo.tasks.registry import tasks

        path = folder / f"rows{suffix}"
        path.write_bytes(content)
        failed: AdapterzooError | None = None
        for task in tasks().values():
            section = DataSection(source=[str(path)], bad_rows="drop")
            try:
                rows = load_splits(section, formats=task.formats)
                options = task.options()
                task.problems(rows, options, task.default_metrics(rows, options))
            except AdapterzooError as error:
                failed = error
        starter(str(path), "some/model", None)
        if failed:
            raise failed

    return read


def read_result(folder: Path, content: bytes) -> None:
    _compare(folder, {"result.json": content})


def read_predictions(folder: Path, content: bytes) -> None:
    _compare(folder, {"result.json": (FROZEN / "result.json").read_bytes(), "predictions.jsonl": content})


def _compare(folder: Path, files: Mapping[str, bytes]) -> None:
    """Compare an output folder whose only cell has these files, and write the comparison in each form."""
    from adapterzoo.comparison import compare
    from adapterzoo.report import table, text

    cell = folder / "lora" / "seed-0"
    cell.mkdir(parents=True)
    for name, content in files.items():
        (cell / name).write_bytes(content)
    compared = compare(folder)
    table.plain(compared)
    for write in text.FORMATS.values():
        write(compared)


def read_note(folder: Path, content: bytes) -> None:
    from adapterzoo.results.note import run_times, unfinished
    from adapterzoo.results.reading import StoredResults
    from adapterzoo.results.store import Store
    from adapterzoo.results.suitable import check_recipe

    (folder / ".adapterzoo.json").write_bytes(content)
    store = Store(folder)
    run_times(folder), unfinished(folder, StoredResults([], {}))
    store.threads(), store.weights()
    check_recipe(store.folder, {"model": {"name": "x"}})


def read_adapter(name: str) -> Callable[[Path, bytes], None]:
    """Return a function that loads an adapter in which one file is the input."""

    def read(folder: Path, content: bytes) -> None:
        from adapterzoo.adapters.finding import Adapter
        from adapterzoo.adapters.loading import apply_adapter
        from adapterzoo.recipe.schema import Recipe
        from adapterzoo.results.result import Result

        recipe = Recipe.model_validate({
            "name": "x", "model": {"name": "m"}, "data": {"source": "rows.csv"}, "methods": ["lora"]
        })  # fmt: skip
        adapter = Adapter(folder, recipe, Result(label="lora", method="lora", seed=0, quantization="none"))
        adapter.path.mkdir(parents=True)
        for other, whole in _adapter_files().items():
            (adapter.path / other).write_bytes(whole)
        (adapter.path / name).write_bytes(content)
        with _base().borrow() as model:
            apply_adapter(adapter, model, "none")

    return read


@cache
def _base() -> Any:
    from adapterzoo.conformance.models import tiny_base

    return tiny_base("llama", "none")


@cache
def _adapter_files() -> dict[str, bytes]:
    """Return the files of an adapter of LoRA on the tiny base."""
    from tempfile import TemporaryDirectory

    from adapterzoo.methods.contract import Context
    from adapterzoo.methods.registry import registry

    method = registry()["lora"]
    context = Context("none", total_steps=1, gradient_accumulation=1, seed=0)
    with TemporaryDirectory() as folder, _base().borrow() as model:
        method.save(method.wrap(model, method.options(), context), Path(folder))
        return {path.name: path.read_bytes() for path in Path(folder).iterdir() if path.name != "README.md"}


def _tables() -> list[list[dict[str, Any]]]:
    """Return a few rows of every data format of every task."""
    shown = [cells for cells, _ in EXAMPLES.values()]
    shown += [
        {"prompt": "Hi", "chosen": "Hello", "rejected": "Bye"},
        {"prompt": "Hi", "completion": "Hello", "label": True},
        {"text": "Hi", "label": "greeting"},
        {"text": "Hi", "label": ["a", "b"]},
        {"words": ["Ann", "sings"], "tags": ["B-PER", "O"]},
        {"question": "Who?", "context": "Ann sings.", "answers": {"text": ["Ann"], "answer_start": [0]}},
        {"anchor": "a", "positive": "b", "negative": "c"},
        {"sentence1": "a", "sentence2": "b", "score": 0.5},
    ]
    return [[cells] * 12 for cells in shown]


def _json_inputs() -> Inputs:
    rows = st.lists(st.dictionaries(st.sampled_from(WORDS), VALUES, max_size=4), max_size=4)
    return st.one_of(mutated(*map(as_json, _tables())), st.builds(as_json, VALUES | rows), st.binary(max_size=40))


def _jsonl_inputs() -> Inputs:
    tables = [b"\n".join(map(as_json, rows)) for rows in _tables()]
    lines = st.lists(st.builds(as_json, VALUES), max_size=6).map(b"\n".join)
    return st.one_of(mutated(*tables), lines, st.binary(max_size=40))


def _csv_inputs(delimiter: str) -> Inputs:
    import csv

    tables = []
    for rows in _tables():
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)
        tables.append(text.getvalue().encode())
    texts = st.lists(TOKENS, max_size=20).map(b"".join)
    return st.one_of(mutated(*tables), texts, st.binary(max_size=40))


def _table_inputs(kind: str) -> Inputs:
    import pyarrow
    from pyarrow import ipc, parquet

    contents = []
    for rows in _tables():
        sink, table = io.BytesIO(), pyarrow.Table.from_pylist(rows)
        if kind == "parquet":
            parquet.write_table(table, sink)
        else:
            with ipc.new_stream(sink, table.schema) as writer:
                writer.write_table(table)
        contents.append(sink.getvalue())
    return mutated(*contents)


def _result_inputs() -> Inputs:
    content = (FROZEN / "result.json").read_bytes()
    return st.one_of(changed(json.loads(content)), mutated(content), st.builds(as_json, VALUES))


def _prediction_inputs() -> Inputs:
    content = (FROZEN / "predictions.jsonl").read_bytes()
    lines = [json.loads(line) for line in content.splitlines()]
    replaced = changed(lines[0]).map(lambda first: b"\n".join([first, *map(as_json, lines[1:])]))
    return st.one_of(replaced, mutated(content), st.lists(st.builds(as_json, VALUES), max_size=4).map(b"\n".join))


def _note_inputs() -> Inputs:
    note = {
        "recipe_hash": "00", "identity": {"model": {"name": "x", "weights": "y"}}, "cells": [["lora", 0]],
        "threads": 2, "times": {"training": 1.5},
    }  # fmt: skip
    return st.one_of(changed(note), mutated(as_json(note)), st.builds(as_json, VALUES))


def _recipe_inputs() -> Inputs:
    keys = ("name", "task", "model", "data", "train", "evaluate", "tune", "budget", "methods", "seeds", "jobs", "x")
    documents = st.dictionaries(st.sampled_from(keys), VALUES, max_size=8).map(as_json)
    return st.one_of(mutated(RECIPE), changed(_plain(RECIPE)), documents, st.lists(TOKENS, max_size=25).map(b"".join))


def _set_inputs() -> Inputs:
    keys = st.lists(st.sampled_from(WORDS) | st.text(max_size=5), min_size=1, max_size=4).map(".".join)
    assigned = st.builds(lambda key, value: _encoded(key) + b"=" + value, keys, st.builds(as_json, VALUES) | TOKENS)
    return st.lists(st.one_of(mutated(*SETS), assigned), min_size=1, max_size=3).map(b"\x1e".join)


def _plain(content: bytes) -> dict[str, Any]:
    from ruamel.yaml import YAML

    plain: dict[str, Any] = json.loads(json.dumps(YAML(typ="safe").load(content)))
    return plain


def _config_inputs() -> Inputs:
    content = _adapter_files()["adapter_config.json"]
    return st.one_of(changed(json.loads(content)), mutated(content), st.builds(as_json, VALUES))


TARGETS = {
    "recipe": Target(read_recipe, _recipe_inputs, 280),
    "set": Target(read_set, _set_inputs, 150),
    "csv": Target(read_data(".csv"), lambda: _csv_inputs(","), 90),
    "tsv": Target(read_data(".tsv"), lambda: _csv_inputs("\t"), 40),
    "json": Target(read_data(".json"), _json_inputs, 90),
    "jsonl": Target(read_data(".jsonl"), _jsonl_inputs, 90),
    "parquet": Target(read_data(".parquet"), lambda: _table_inputs("parquet"), 10),
    "arrow": Target(read_data(".arrow"), lambda: _table_inputs("arrow"), 10),
    "result": Target(read_result, _result_inputs, 120),
    "predictions": Target(read_predictions, _prediction_inputs, 30),
    "note": Target(read_note, _note_inputs, 70),
    "adapter_config": Target(read_adapter("adapter_config.json"), _config_inputs, 10),
    "adapter_weights": Target(
        read_adapter("adapter_model.safetensors"), lambda: mutated(_adapter_files()["adapter_model.safetensors"]), 10
    ),
}


@contextmanager
def _new_folder(below: Path) -> Any:
    import shutil
    import tempfile

    folder = Path(tempfile.mkdtemp(dir=below))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def try_input(name: str, content: bytes, below: Path) -> None:
    """Give an input to a target; every error but the documented ones comes out.

    Args:
        name: name of the target.
        content: the input.
        below: folder in which the files are made.
    """
    with _new_folder(below) as folder, stopped_after(MAX_SECONDS, waiting=True), suppress(AdapterzooError):
        TARGETS[name].read(folder, content)


def first_inputs(name: str, number: int) -> list[bytes]:
    """Return some random inputs of a target."""
    inputs: list[bytes] = []

    @settings(max_examples=number, database=None, deadline=None, phases=(Phase.generate,))
    @given(TARGETS[name].inputs())
    def keep(content: bytes) -> None:
        inputs.append(content)

    keep()
    return inputs


def fuzz(name: str, inputs: int, below: Path, start: int = 0) -> bytes | None:
    """Give random inputs to a target; return the smallest one that raises another error, and raise nothing.

    Args:
        name: name of the target.
        inputs: number of inputs.
        below: folder in which the files are made.
        start: seed of the random inputs.
    """
    found: list[bytes] = []

    @seed(start)
    @settings(
        max_examples=inputs, database=None, deadline=None, suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink), verbosity=Verbosity.quiet, report_multiple_bugs=False,
    )  # fmt: skip
    @given(TARGETS[name].inputs())
    def tried(content: bytes) -> None:
        try:
            try_input(name, content, below)
        except BaseException:
            found.append(content)
            raise

    try:
        tried()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if not found:
            raise
        print(f"{name}: {type(error).__name__}: {error!s:.300}")
        return found[-1]
    return None
