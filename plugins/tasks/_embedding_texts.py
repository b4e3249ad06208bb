"""Texts as token ids, and how a model that embeds them is trained and measured."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Literal

from adapterzoo_plugins.tasks._embedding_losses import (
    COMPARES_ROWS,
    EmbeddingOptions,
    Loss,
    batch_loss,
    losses_of_rows,
)
from adapterzoo_plugins.tasks._embedding_rows import Shape, texts_of
from adapterzoo_plugins.tasks._pooling import Pooling, pooled
from adapterzoo_plugins.tasks._retrieval import ranked

from adapterzoo.data.row_content import text_digest
from adapterzoo.data_row import DataRow
from adapterzoo.tasks.evaluation import Evaluation, Likelihood, evaluation_of, needs_answers
from adapterzoo.tasks.examples import EvaluateSettings, Examples, ModelForm
from adapterzoo.tokens.sequences import ReadText, pad_right

if TYPE_CHECKING:
    import torch

CACHED_TEXTS = 10_000  # many rows may have a text in common
DIGITS = 6  # of a cosine
SCORES = "scores"  # what a batch has beside the arguments of the model


@dataclass(frozen=True, slots=True)
class Texts:
    """The texts of a row as token ids."""

    row: DataRow
    texts: tuple[ReadText, ...]
    """anchor, positive and perhaps negative; or two texts with a score"""

    @property
    def size(self) -> int:
        """Number of tokens of all texts."""
        return sum(text.size for text in self.texts)

    @property
    def longest(self) -> int:
        """Number of tokens of the longest text."""
        return max(text.size for text in self.texts)

    @property
    def tokens(self) -> tuple[list[int], list[bool]]:
        """All token ids of one text after the other; none of them is in the loss."""
        return [token for text in self.texts for token in text.ids], [False] * self.size


@dataclass(frozen=True, kw_only=True)
class EmbeddedTexts(Examples):
    """Texts that belong together, or two texts and how alike they are."""

    shape: Shape
    loss_name: Loss
    options: EmbeddingOptions
    pooling: Pooling

    @property
    def form(self) -> ModelForm:
        """See :attr:`Examples.form`."""
        return ModelForm("AutoModel", vocabulary=len(self.tokenizer), pooler=False)

    @property
    def smallest_batch(self) -> int:
        """See :attr:`Examples.smallest_batch`."""
        # The own negative of a triplet is enough to compare with.
        alone = self.loss_name not in COMPARES_ROWS or self.shape == "triplets"
        return 1 if alone else 2

    @property
    def loss_unit(self) -> Literal["rows"] | None:
        """See :attr:`Examples.loss_unit`."""
        return None if self.loss_name in COMPARES_ROWS else "rows"

    def collate(self, rows: Sequence[Texts], prefix: Any = None) -> dict[str, Any]:
        """See :meth:`Examples.collate`: the first texts of all rows, then the second ones, and so on."""
        import torch

        columns = zip(*(row.texts for row in rows), strict=True)
        batch = pad_right([text for column in columns for text in column], self.pad_id)
        return {**batch, SCORES: torch.tensor(_scores(rows))} if self.shape == "scored pairs" else batch

    def loss(self, model: Any, arguments: dict[str, Any]) -> torch.Tensor:
        """See :meth:`Examples.loss`: sentence-transformers' loss of a batch, and what a method adds to a loss."""
        from adapterzoo.training.task_loss import output_and_terms

        batch = {name: value for name, value in arguments.items() if name != SCORES}
        output, terms = output_and_terms(model, batch)
        embeddings = pooled(output.last_hidden_state, batch["attention_mask"], self.pooling)
        columns = embeddings.chunk(3 if self.shape == "triplets" else 2)
        return terms + batch_loss(self.loss_name, self.options, columns, arguments.get(SCORES))

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """See :meth:`Examples.evaluate`.

        The loss is that of all rows of the split as one batch. The answer to an anchor is the nearest text; the answer
        to two texts is their cosine.
        """
        import torch

        examples: list[Texts] = getattr(self, split)
        begun = time.perf_counter()
        embeddings = self._embeddings(model, examples, settings.batch_size)
        rows = [example.row for example in examples]
        texts = [texts_of(row) for row in rows]
        columns = [torch.stack([embeddings[text] for text in column]) for column in zip(*texts, strict=True)]
        unit = {text: vector / vector.norm().clamp(min=1e-12) for text, vector in embeddings.items()}
        scores: dict[str, list[float | bool]] = {}
        if self.shape == "scored pairs":
            # Cosines of equal texts differ by rounding, which must not decide about their order.
            answers = [f"{float(unit[first] @ unit[second]):.{DIGITS}f}" for first, second in texts]
            targets = torch.tensor(_scores(examples)).double()
        else:
            found, targets = ranked(texts, unit), None
            answers = [search.found for search in found]
            scores = {"retrieval_hit": [s.hit for s in found], "ndcg": [s.ndcg for s in found]}
        seconds = (time.perf_counter() - begun) / len(examples)
        losses = losses_of_rows(self.loss_name, self.options, columns, targets).tolist()
        hits = scores.get("retrieval_hit", [False] * len(losses))
        likelihoods = [Likelihood(loss, 1, (), int(hit)) for loss, hit in zip(losses, hits, strict=True)]
        given = seconds if needs_answers(settings.metrics) else None
        return evaluation_of(rows, likelihoods, answers, settings.metrics, split, given, scores)

    def _embeddings(self, model: Any, examples: Sequence[Texts], batch_size: int) -> dict[str, torch.Tensor]:
        """Return the embedding of each different text of the examples."""
        from adapterzoo.evaluation.outputs import outputs

        different = {
            text: read for example in examples for text, read in zip(texts_of(example.row), example.texts, strict=True)
        }

        def embeddings(output: Any, group: Sequence[ReadText]) -> Sequence[torch.Tensor]:
            mask = pad_right(group, self.pad_id)["attention_mask"].to(output.last_hidden_state.device)
            return list(pooled(output.last_hidden_state, mask, self.pooling).cpu().double())

        found = outputs(
            model, [*different.values()], lambda group: pad_right(group, self.pad_id), batch_size, embeddings
        )
        return dict(zip(different, found, strict=True))


def _scores(examples: Sequence[Texts]) -> list[float]:
    return [float(example.row.completion) for example in examples]


def read_texts(
    split: str,
    rows: Sequence[DataRow],
    say: Callable[[str], None],
    *,
    tokenizer: Any,
    pooling: Pooling,
    max_length: int,
) -> Iterator[tuple[int, Texts]]:
    """Yield the number of each row and its texts as token ids, cut to a length; say how many are cut."""
    end = tokenizer.eos_token_id if pooling.adds_end else None
    different, cut = set[bytes](), set[bytes]()

    @lru_cache(maxsize=CACHED_TEXTS)
    def encoded(text: str) -> tuple[list[int], list[int]]:
        different.add(text_digest(text))
        whole = tokenizer(text, truncation=False, verbose=False)
        more = [] if end is None or whole["input_ids"][-1:] == [end] else [end]
        if len(whole["input_ids"]) + len(more) > max_length:
            whole = tokenizer(text, truncation=True, max_length=max_length - len(more))
            cut.add(text_digest(text))
        segments = [*(whole.get("token_type_ids") or [])]
        return [*whole["input_ids"], *more], [*segments, *(segments[-1:] * len(more))]

    for number, row in enumerate(rows):
        yield number, Texts(row, tuple(ReadText(row, *encoded(text), None) for text in texts_of(row)))
    if cut:
        say(f"data: {len(cut)} of {len(different)} texts of {split} are cut to fit max_length = {max_length}")
