"""Prompts, the answers that a model samples to them, and the rewards of these answers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from adapterzoo_plugins.tasks._policy_losses import ReinforcementOptions, advantages, policy_loss
from adapterzoo_plugins.tasks._prompts import Asked
from adapterzoo_plugins.tasks._rewarding import rewards_of

from adapterzoo.tasks.evaluation import Evaluation, Likelihood, evaluation_of
from adapterzoo.tasks.examples import EvaluateSettings, Examples, Joinable, longest_of
from adapterzoo.tokens.batches import Tokens, pad_batch, row_tokens
from adapterzoo.tokens.encoded import LongestFirst

if TYPE_CHECKING:
    import torch

METRIC = "mean_reward"
EXTRA = ("advantages", "mean_reward", "answer_of_token")  # what the loss needs beside the model's arguments


@dataclass(frozen=True, kw_only=True)
class Rollouts(Examples):
    """Prompts, to which the model samples answers in each step of its training."""

    shown_answer = "right answer"
    end_ids: list[int]
    """ids of the tokens that end an answer"""
    answer_header: str
    """text that the chat template has before an answer, after the generation prompt"""
    options: ReinforcementOptions

    @property
    def longest_row(self) -> int:
        """See :attr:`Examples.longest_row`: the longest prompt with its answer."""
        return super().longest_row + int(self.options.max_new_tokens)

    def joinable(self, settings: EvaluateSettings) -> Joinable:
        """See :meth:`Examples.joinable`; the ends of prompts stand for answers."""
        wanted = settings.max_new_tokens
        answer = max(self.options.max_new_tokens, 0 if wanted == "auto" else wanted)
        longest = max(longest_of(split) for split in (self.train, self.test) if split)
        return Joinable(LongestFirst(self.train, self.test, _halves), longest + answer)

    def collate(self, rows: Sequence[Asked], prefix: Any = None) -> dict[str, Any]:
        """See :meth:`Examples.collate`: the prompts without answers."""
        import torch

        batch = pad_batch([row_tokens(row.prompt) for row in rows], self.pad_id)
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "rows": torch.tensor([row.index for row in rows]),
        }

    def sampled(self, batch: dict[str, Any], model: Any, seed: int, prefix: Any = None) -> dict[str, Any]:
        """See :meth:`Examples.sampled`: the prompts with the answers, and how good these are.

        The model answers in evaluation mode, because the dropout of an adapter would make other answers likely.
        """
        import torch

        from adapterzoo.evaluation.decoding import decoded
        from adapterzoo.evaluation.generation import sample

        options, was_training = self.options, model.training
        asked: list[Asked] = [self.train[index] for index in batch["rows"].tolist()]
        model.eval()
        drawn = sample(
            model, self, [example.prompt for example in asked], options.answers, options.max_new_tokens,
            options.temperature, seed, prefix,
        )  # fmt: skip
        model.train(was_training)
        answers = [self._ended(ids) for ids in drawn]
        prompts = [example for example in asked for _ in range(options.answers)]
        given = rewards_of([decoded(answer, self) for answer in answers], [p.row for p in prompts], options)
        found = torch.tensor(given, dtype=torch.double).view(len(asked), options.answers)
        rows = [row_tokens(example.prompt, answer) for example, answer in zip(prompts, answers, strict=True)]
        return {
            **(pad_batch(rows, self.pad_id) if prefix is None else prefix.tree(rows, self.pad_id)),
            "advantages": advantages(options.loss, found).flatten().float(),
            "mean_reward": found.mean().float(),
        }

    def arguments(self, batch: dict[str, Any], model: Any) -> dict[str, Any]:
        """See :meth:`Examples.arguments`; the loss takes out what is not for the model."""
        from adapterzoo.tokens.shared_prefix import learned_rows, model_arguments

        return {**model_arguments(batch, model), "answer_of_token": learned_rows(batch)}

    def loss(self, model: Any, arguments: dict[str, Any]) -> torch.Tensor:
        """See :meth:`Examples.loss`.

        It has the gradient of the policy's loss, and the value of the mean reward with the other sign: the policy's
        loss itself is about 0 at each step.
        """
        from torch.nn import functional

        from adapterzoo.tokens.shared_prefix import learned_logits
        from adapterzoo.training.task_loss import task_loss

        batch = {name: value for name, value in arguments.items() if name not in EXTRA}
        given, mean_reward, rows = (arguments[name] for name in EXTRA)

        def loss(logits: torch.Tensor) -> torch.Tensor:
            logits, targets = learned_logits(logits, batch)
            likelihoods = -functional.cross_entropy(
                logits.float() / self.options.temperature, targets, reduction="none"
            )
            value = policy_loss(self.options.loss, likelihoods, rows, given, self.options.max_new_tokens)
            return value - value.detach() - mean_reward

        return task_loss(model, batch, loss)

    def evaluate(
        self, model: Any, settings: EvaluateSettings, *, split: str = "test", prefix: Any = None, shots: bool = False
    ) -> Evaluation:
        """See :meth:`Examples.evaluate`: the greedy answers and their rewards; the loss is a reward's negative."""
        from adapterzoo.evaluation.decoding import decoded
        from adapterzoo.evaluation.generation import greedy

        examples: list[Asked] = getattr(self, split)
        prompts = [example.prompt for example in examples]
        limit = self.options.max_new_tokens if settings.max_new_tokens == "auto" else settings.max_new_tokens
        begun = time.perf_counter()
        ids = greedy(model, self, prompts, settings.batch_size, [limit] * len(prompts), prefix)
        answers = [decoded(answer, self) for answer in ids]
        seconds = (time.perf_counter() - begun) / len(examples)
        rows = [example.row for example in examples]
        found = rewards_of(answers, rows, self.options)
        likelihoods = [Likelihood(-reward, 1, (), 0) for reward in found]
        return evaluation_of(rows, likelihoods, answers, settings.metrics, split, seconds, {METRIC: found})

    def _ended(self, ids: list[int]) -> list[int]:
        """Return the tokens of an answer up to its end token, which is one of them."""
        end = next((index for index, token in enumerate(ids) if token in self.end_ids), len(ids))
        return ids[: end + 1]


def _halves(asked: Asked) -> Tokens:
    """Return the tokens of a prompt, whose second half stands for an answer."""
    half = len(asked.prompt) // 2
    return row_tokens(asked.prompt[:half], asked.prompt[half:])
