"""Prompts with answers that are better or worse: how a model is trained and measured on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, Self

from adapterzoo_plugins.tasks._judged import Judged, by_place, sequences_of, with_base
from adapterzoo_plugins.tasks._preference_losses import (
    WITH_BASE,
    Judgement,
    Loss,
    PreferenceOptions,
    divergence_of,
    log_likelihoods,
    losses,
    rewards,
    text_loss_of,
)

from adapterzoo.data_row import SPLIT_NAMES
from adapterzoo.tasks.evaluation import Evaluation, Likelihood, evaluation_of_scores
from adapterzoo.tasks.examples import EvaluateSettings, Examples
from adapterzoo.tokens.kept_examples import KeptExamples

if TYPE_CHECKING:
    import torch

EXTRA = ("of_base", "wanted", "mismatched")
"""what a batch has beside the arguments of the model"""


@dataclass(frozen=True, kw_only=True)
class Judgements(Examples):
    """Prompts with answers that are better or worse."""

    loss_name: Loss
    options: PreferenceOptions

    @property
    def asks_base(self) -> bool:
        """See :attr:`Examples.asks_base`."""
        return self.loss_name in WITH_BASE

    def ask_base(self, model: Any, settings: EvaluateSettings) -> dict[str, list[tuple[float, ...]]]:
        """See :meth:`Examples.ask_base`: the log-likelihoods of all answers, for each split."""
        answers = {}
        for split in SPLIT_NAMES:
            examples: list[Judged] = getattr(self, split)
            found = iter(self._measured(model, examples, settings))
            of_each = len(examples[0].sequences) if examples else 0
            answers[split] = [tuple(-next(found).loss for _ in range(of_each)) for _ in range(len(examples))]
        return answers

    @property
    def relative_metrics(self) -> Sequence[str]:
        """See :attr:`Examples.relative_metrics`: rewards that are rises over the base model."""
        return ("reward_accuracy", "reward_margin") if self.asks_base else ()

    def with_base(self, answer: dict[str, list[tuple[float, ...]]] | None) -> Self:
        """See :meth:`Examples.with_base`."""
        if not self.asks_base:
            return self
        splits: dict[str, Any] = {}
        for split in SPLIT_NAMES:
            examples: list[Judged] = getattr(self, split)
            of_each = len(examples[0].sequences) if examples else 0
            known = answer[split] if answer else [(0.0,) * of_each] * len(examples)
            if isinstance(examples, KeptExamples):
                splits[split] = examples.changed(partial(with_base, known))
            else:
                splits[split] = [with_base(known, index, example) for index, example in enumerate(examples)]
        return replace(self, **splits)

    @property
    def loss_unit(self) -> Literal["rows"] | None:
        """See :attr:`Examples.loss_unit`; kto has the divergence of a batch in it, and orpo a mean over its tokens."""
        return None if self.loss_name in ("kto", "orpo") else "rows"

    def collate(self, rows: Sequence[Judged], prefix: Any = None) -> dict[str, Any]:
        """See :meth:`Examples.collate`: first the chosen answers of all rows, then the rejected ones.

        What is known of the untouched base model is in ``of_base``, of shape (sequences of a row, rows).
        """
        import torch
        from torch.nn import functional

        from adapterzoo.tokens.batches import IGNORED, pad_batch

        batch = pad_batch(by_place([row.answers for row in rows]), self.pad_id)
        if self.loss_name == "orpo":  # it also learns the prompt, so it needs the output for all tokens
            width = batch["input_ids"].shape[1]
            batch["labels"] = functional.pad(batch["labels"], (width - batch["logits_to_keep"], 0), value=IGNORED)
            batch["logits_to_keep"] = width
        if rows[0].of_base:
            batch["of_base"] = torch.tensor([row.of_base for row in rows]).T.contiguous()
            batch["wanted"] = torch.tensor([row.wanted for row in rows]).T.contiguous()
        if rows[0].of_base and rows[0].mismatched:
            batch["mismatched"] = pad_batch(by_place([row.mismatched for row in rows]), self.pad_id)
        return batch

    def arguments(self, batch: dict[str, Any], model: Any) -> dict[str, Any]:
        """See :meth:`Examples.arguments`; the loss takes out what is not for the model.

        Raises:
            RuntimeError: the untouched base model was not asked.
        """
        if self.asks_base and "of_base" not in batch:
            raise RuntimeError(f"{self.loss_name} needs what the untouched base model says: call with_base first")
        return batch

    def loss(self, model: Any, arguments: dict[str, Any]) -> torch.Tensor:
        """See :meth:`Examples.loss`: the mean over the examples of a batch."""
        import torch

        from adapterzoo.training.task_loss import task_loss

        batch = {name: value for name, value in arguments.items() if name not in EXTRA}
        of_base, wanted = arguments.get("of_base"), arguments.get("wanted")
        divergence = torch.zeros(())
        if "mismatched" in arguments:
            mismatched = arguments["mismatched"]
            with torch.no_grad():
                output = model(**{name: value for name, value in mismatched.items() if name != "labels"})
                sums, _ = log_likelihoods(output.logits, mismatched)
            assert of_base is not None
            divergence = divergence_of(sums - of_base[len(of_base) // 2 :].flatten())

        def loss(logits: torch.Tensor) -> torch.Tensor:
            sums, counts = log_likelihoods(logits, batch)
            answers = 2 if of_base is None or wanted is None else len(wanted)
            shape = (answers, len(sums) // answers)
            sums = sums.view(shape)
            base = torch.zeros_like(sums) if of_base is None else of_base[:answers]
            judged = Judgement(sums, counts.view(shape), base, torch.zeros_like(sums) if wanted is None else wanted)
            text_loss = text_loss_of(logits, batch, shape[1]) if self.loss_name == "orpo" else sums.new_zeros(())
            return losses(self.loss_name, self.options, judged, divergence, text_loss).mean()

        return task_loss(model, batch, loss)

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """See :meth:`Examples.evaluate`.

        The reward of an answer is TRL's: for dpo, ipo and kto, ``beta`` times the rise of its log-likelihood over the
        untouched base model; for orpo and simpo, ``beta`` times its log-likelihood per token. By the first definition
        the base model itself has rewards of 0, so its row has no metrics of rewards. It can be compared with others by
        ``likelihood_accuracy``, which needs no reference. An answer without a partner is right if its
        reward is above 0 and it is wanted, or below 0 and it is not; its margin is the reward with this sign.

        The loss is the mean over the examples. For orpo, that of an example has the mean over its own tokens; for kto,
        the divergence from the base model is that of the whole split.
        """
        import torch

        examples: list[Judged] = getattr(self, split)
        found = iter(self._measured(model, examples, settings))
        measured = [[next(found) for _ in example.sequences] for example in examples]
        number = len(examples[0].answers)

        def tensor(rows: Sequence[Sequence[Any]]) -> torch.Tensor:
            values = torch.tensor([row[:number] for row in rows]).T
            return values if values.dtype == torch.bool else values.double()

        sums = tensor([[-answer.loss for answer in row] for row in measured])
        judged = Judgement(
            sums=sums,
            counts=tensor([[answer.tokens for answer in row] for row in measured]),
            of_base=tensor([e.of_base for e in examples]) if self.asks_base else torch.zeros_like(sums),
            wanted=tensor([example.wanted for example in examples]),
        )
        rises = [
            -answer.loss - of_base
            for row, example in zip(measured, examples, strict=True)
            for answer, of_base in zip(row[number:], example.of_base[number:], strict=True)
        ]
        divergence = divergence_of(torch.tensor(rises).double()) if rises else torch.zeros(())
        text_losses = torch.zeros(())
        if self.loss_name == "orpo" and "loss" in settings.metrics:
            text_losses = torch.tensor(self._text_losses(model, examples, settings)).double()
        scores = self._scores(judged)
        loss_of_each = losses(self.loss_name, self.options, judged, divergence, text_losses).tolist()
        right = scores["likelihood_accuracy" if number == 2 else "reward_accuracy"]
        likelihoods = [
            Likelihood(loss, 1, (), int(is_right)) for loss, is_right in zip(loss_of_each, right, strict=True)
        ]
        rows = [example.row for example in examples]
        return evaluation_of_scores(rows, likelihoods, scores, settings.metrics, split)

    def _scores(self, judged: Judgement) -> dict[str, list[Any]]:
        """Return the scores of each example by metric."""
        given = rewards(self.loss_name, self.options, judged)
        if len(given) == 1:
            margins = given[0].where(judged.wanted[0], -given[0])
            return {"reward_accuracy": (margins > 0).tolist(), "reward_margin": margins.tolist()}
        return {
            "likelihood_accuracy": (judged.means[0] > judged.means[1]).tolist(),
            "reward_accuracy": (given[0] > given[1]).tolist(),
            "reward_margin": (given[0] - given[1]).tolist(),
        }

    def _measured(self, model: Any, examples: Sequence[Judged], settings: EvaluateSettings) -> list[Likelihood]:
        """Return the likelihood of all sequences of all examples, in their order.

        The untouched base model is measured here too, in the same batches: compared with itself, it differs by 0.
        """
        from adapterzoo.evaluation.likelihood import likelihoods

        return likelihoods(model, sequences_of(examples), self.pad_id, settings.batch_size, losses_only=True)

    def _text_losses(self, model: Any, examples: Sequence[Judged], settings: EvaluateSettings) -> list[float]:
        """Return the loss per token of each prompt with its chosen answer."""
        from adapterzoo.evaluation.likelihood import likelihoods

        texts = [(ids, [False] + [True] * (len(ids) - 1)) for ids, _ in (example.answers[0] for example in examples)]
        measured = likelihoods(model, texts, self.pad_id, settings.batch_size, losses_only=True)
        return [text.loss / text.tokens for text in measured]
