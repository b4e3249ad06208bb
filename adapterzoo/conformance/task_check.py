"""Check that a task is sound: train a tiny model for it, and compare what must be the same.

In the tests of a plugin::

    from adapterzoo.conformance import check_task


    def test_my_task_is_sound():
        rows = [{"text": f"word {number}", "label": str(number % 2)} for number in range(40)]
        check_task("my-task", rows, "my-method")
"""

from __future__ import annotations

import json
import math
import os
import pickle
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from adapterzoo.files import CACHE_VARIABLE
from adapterzoo.machine.quiet import quiet_libraries

if TYPE_CHECKING:
    from adapterzoo.prepare.prepared import Prepared

STEPS = 30
LEARNING_RATE = 5e-3
TOLERANCE = 1e-3
"""largest accepted relative difference of a metric between batches of one row and of several"""


def check_task(
    name: str, rows: Sequence[Mapping[str, Any]], method: str, architecture: str = "llama", **options: Any
) -> None:
    """Train a tiny model for a task on the given rows, and fail if the task is not sound.

    A task is sound if training lowers its loss; if it gives every metric, and a prediction for each test row, as plain
    numbers; if these do not depend on the number of rows in a batch; if measuring twice gives the same; if methods that
    read training rows cannot reach the test rows; and, if it leaves rows on disk, if these become the same examples.

    Args:
        name: name of the installed task.
        rows: at least 20 different rows, as in a file of JSON lines.
        method: name of the installed method that trains the model.
        architecture: architecture of the tiny model: ``llama``, ``bert`` or ``t5``.
        options: options of the task.

    Raises:
        AssertionError: the task is not sound; the message says what is wrong.
        UserError: the rows do not fit the task.
    """
    from adapterzoo.prepare.prepare import prepare
    from adapterzoo.recipe.reading import load_recipe

    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="adapterzoo-") as name_of_folder:
        folder = Path(name_of_folder)
        prepared = prepare(load_recipe(_write_recipe(name, rows, method, architecture, options, folder)))
        if prepared.task.from_disk:
            _check_from_disk(prepared, folder)
        _check(prepared, folder)


def _write_recipe(
    name: str,
    rows: Sequence[Mapping[str, Any]],
    method: str,
    architecture: str,
    options: dict[str, Any],
    folder: Path,
) -> Path:
    """Write the rows and a recipe; return the path of the recipe."""
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    recipe = {
        "name": "check",
        "task": {"name": name, **options},
        "model": {"name": str(_model_with_tokenizer(architecture)), "dtype": "float32"},
        "data": {"source": "rows.jsonl", "split": {"train": 0.6, "validation": 0.2, "test": 0.2}, "max_length": 64},
        "train": {"steps": STEPS, "batch_size": 4, "learning_rate": LEARNING_RATE, "warmup": 0},
        "evaluate": {"batch_size": 4, "max_new_tokens": 8},
        "methods": [method],
    }
    path = folder / "recipe.yaml"
    path.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML too
    return path


def _check(prepared: Prepared, folder: Path) -> None:
    """Train the model of a recipe, and check what is measured."""
    from adapterzoo.results.store import Store
    from adapterzoo.running.cell import adapt, train
    from adapterzoo.running.watch import Watch
    from adapterzoo.running.worker import Worker

    settings = prepared.recipe.evaluate
    worker = Worker(prepared, Store(folder / "out"), {})
    base = worker.load("none")
    method = prepared.recipe.methods[0].name
    (cell,) = (cell for cell in prepared.method_cells if cell.method == method)  # a new head has a cell of its own
    with base.borrow() as model:
        if prepared.encoded.asks_base:
            answer = prepared.encoded.ask_base(model, settings)
            prepared = replace(prepared, encoded=prepared.encoded.with_base(answer))
        adapted = adapt(prepared, cell, model, Watch())
        examples = prepared.encoded
        before = examples.evaluate(adapted.model, settings).metrics
        first = _training_loss(examples, adapted.model)
        train(prepared, cell, adapted, folder / "checkpoints", Watch())
        last = _training_loss(examples, adapted.model)
        assert last < first, f"after {STEPS} steps the loss on the training rows went from {first:.4f} to {last:.4f}"
        measured = examples.evaluate(adapted.model, settings)
        again = examples.evaluate(adapted.model, settings)
        alone = examples.evaluate(adapted.model, settings.model_copy(update={"batch_size": 1}))
    _check_metrics(measured.metrics, before)
    assert len(measured.predictions) == len(examples.test), "there must be a prediction for each test row, in order"
    records = [prediction.record() for prediction in measured.predictions]
    json.dumps(records, allow_nan=False)
    assert [record["index"] for record in records] == list(range(len(records))), "predictions are not in order"
    assert measured.metrics == again.metrics, "measuring the same model twice gives other numbers"
    for metric, value in measured.metrics.items():
        gap = abs(alone.metrics[metric] - value)
        assert gap <= TOLERANCE * max(abs(value), 1.0), (
            f"{metric} is {value:.6g} in batches of several rows and {alone.metrics[metric]:.6g} in batches of one"
        )
    reachable = pickle.loads(pickle.dumps(examples.training_only()))
    assert not reachable.test, "training_only() keeps test rows, which a method must not see"
    assert not reachable.validation, "training_only() keeps validation rows, which a method must not see"
    reachable.collate(reachable.train[:2])


def _check_from_disk(prepared: Prepared, folder: Path) -> None:
    """Check that training rows on disk become the same examples as rows in memory."""
    from adapterzoo.data import stored_rows
    from adapterzoo.prepare.prepare import prepare

    with (
        mock.patch.object(stored_rows, "MAX_BYTES_IN_MEMORY", 0),
        mock.patch.dict(os.environ, {CACHE_VARIABLE: str(folder / "cache")}),
    ):
        stored = prepare(prepared.recipe).encoded.train
        found = [(example.row, example.tokens) for example in stored]
    assert not isinstance(stored, list), "from_disk is set, and encode() makes a list of the training rows"
    expected = [(example.row, example.tokens) for example in prepared.encoded.train]
    assert found == expected, "training rows that are read from disk become other examples than rows in memory"


def _training_loss(examples: Any, model: Any) -> float:
    """Return the loss of all training rows in one batch."""
    import torch

    from adapterzoo.tokens.batches import to_device

    model.eval()
    with torch.no_grad():
        batch = examples.sampled(examples.collate(list(examples.training_rows)), model, 0)
        arguments = examples.arguments(to_device(batch, model), model)
        return float(examples.loss(model, arguments))


def _check_metrics(metrics: Mapping[str, Any], before: Mapping[str, Any]) -> None:
    assert metrics, "evaluate() gives no metric"
    assert metrics.keys() == before.keys(), "evaluate() gives other metrics for another model"
    for name, value in metrics.items():
        finite = isinstance(value, float) and math.isfinite(value)
        assert finite, f"{name} is {value!r}, not a finite number"


@cache
def _model_with_tokenizer(architecture: str) -> Path:
    """Return the folder of a tiny model with a tokenizer of single characters."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from adapterzoo.conformance.models import model_folder

    folder = model_folder(architecture)
    special = ["<pad>", "<s>", "</s>", "<unk>"]
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: index for index, token in enumerate([*special, *letters])}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    return folder
