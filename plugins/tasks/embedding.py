"""Embedding: a model learns to give texts vectors that are near each other if the texts belong together."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib import metadata
from typing import Any

from adapterzoo_plugins.tasks._embedding_losses import EmbeddingOptions, loss_of, option_problems
from adapterzoo_plugins.tasks._embedding_rows import FORMATS, Shape, retrieval_problems, score_problems, shape_of
from adapterzoo_plugins.tasks._embedding_texts import EmbeddedTexts, Texts, read_texts
from adapterzoo_plugins.tasks._pooling import choose_pooling

from adapterzoo import Problem, Task, hookimpl
from adapterzoo.tasks.contract import EncodeInput, Rows
from adapterzoo.tasks.suited import unsuited_metrics
from adapterzoo.tokens.kept_examples import read_splits
from adapterzoo.tokens.sequences import ReadText

LIBRARY = "sentence-transformers"
OLDEST = 6  # major version of the library that has the losses and the pooling where they are imported from
RETRIEVAL = ("retrieval_hit", "ndcg", "loss")
METRICS: dict[Shape, tuple[str, ...]] = {
    "pairs": RETRIEVAL,
    "triplets": RETRIEVAL,
    "scored pairs": ("spearman", "loss"),
}
"""what the rows are -> the built-in metrics that say something about them"""


class Embedding(Task[EmbeddingOptions]):
    """The task of embedding texts."""

    name = "embedding"
    summary = "vectors of texts, which are near each other if the texts belong together"
    options = EmbeddingOptions
    model_class = "AutoModel"
    task_type = "FEATURE_EXTRACTION"
    formats = FORMATS
    metrics = RETRIEVAL
    measured = RETRIEVAL
    from_disk = True

    def packages(self, options: EmbeddingOptions) -> Sequence[str]:
        """See :meth:`Task.packages`."""
        return (LIBRARY,)

    def default_metrics(self, rows: Rows, options: EmbeddingOptions) -> Sequence[str]:
        """See :meth:`Task.default_metrics`."""
        return METRICS[shape_of(rows)]

    def model_problems(self, config: Any) -> list[Problem]:
        """See :meth:`Task.model_problems`."""
        if config.is_encoder_decoder:
            what = f"the task {self.name} needs one encoder or one decoder, and a model of type {config.model_type} has"
            return [Problem("model", f"{what} both.", "Choose another model, or another task.")]
        return super().model_problems(config)

    def problems(self, rows: Rows, options: EmbeddingOptions, metrics: Sequence[str]) -> list[Problem]:
        """See :meth:`Task.problems`."""
        shape, problems = shape_of(rows), _library_problems()
        what = "scores of two texts" if shape == "scored pairs" else "which texts are found"
        problems += [*unsuited_metrics(metrics, METRICS[shape], what), *option_problems(shape, options)]
        if shape == "scored pairs":
            return [*problems, *score_problems(rows, loss_of(shape, options))]
        return [*problems, *retrieval_problems(rows)]

    def encode(self, given: EncodeInput[EmbeddingOptions]) -> EmbeddedTexts:
        """See :meth:`Task.encode`."""
        from adapterzoo.model.padding import choose_padding_id

        tokenizer, rows, shape = given.tokenizer, given.rows, shape_of(given.rows)
        pooling = choose_pooling(given.options.pooling, given.config, given.data.max_length)
        pad_id = choose_padding_id(tokenizer)
        loss = loss_of(shape, given.options)
        read = partial(read_texts, tokenizer=tokenizer, pooling=pooling, max_length=given.data.max_length)
        return EmbeddedTexts(
            tokenizer=tokenizer,
            **read_splits(given, read, [Texts, ReadText]),
            pad_id=pad_id,
            fingerprint=rows.fingerprint,
            facts=(
                f"loss {loss}; padding {tokenizer.convert_ids_to_tokens(pad_id)}",
                f"pooling {pooling.mode} ({pooling.reason})",
            ),
            shape=shape,
            loss_name=loss,
            options=given.options,
            pooling=pooling,
        )


def _library_problems() -> list[Problem]:
    """Return a problem if sentence-transformers is missing or too old; it is not imported, which takes seconds."""
    hint = "Run: pip install 'adapterzoo[embedding]'"
    try:
        version = metadata.version(LIBRARY)
    except metadata.PackageNotFoundError:
        return [Problem("task", f"the task embedding needs the package {LIBRARY}.", hint)]
    if int(version.partition(".")[0]) >= OLDEST:
        return []
    return [Problem("task", f"the task embedding needs {LIBRARY} {OLDEST} or newer, and {version} is here.", hint)]


@hookimpl
def adapterzoo_tasks() -> list[Task[Any]]:
    """Return the task of this module."""
    return [Embedding()]
