"""The losses and rewards of preferences, computed from the log-likelihoods of answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pydantic import Field

from adapterzoo import Options

if TYPE_CHECKING:
    import torch

Loss = Literal["dpo", "ipo", "kto", "orpo", "simpo"]
WITH_BASE = ("dpo", "ipo", "kto")
"""losses that compare the model with the untouched base model"""
OWN_OPTIONS = {"simpo_gamma": "simpo", "desirable_weight": "kto", "undesirable_weight": "kto"}
"""option -> the only loss that uses it"""
SURE = -1e-6  # the largest mean log-likelihood that the odds are computed for: those of a certain answer are infinite


class PreferenceOptions(Options):
    """The options of the task; their names and defaults are TRL's."""

    loss: Literal["auto", "dpo", "ipo", "kto", "orpo", "simpo"] = Field(
        "auto", description="what is minimised; auto = dpo for pairs of answers, kto for single answers with a label"
    )
    beta: float = Field(
        0.1, gt=0, description="how closely the model stays to the base model; for orpo the weight of the odds ratio"
    )
    simpo_gamma: float = Field(0.5, ge=0, description="simpo: the margin that is aimed at")
    desirable_weight: float = Field(1.0, gt=0, description="kto: weight of the answers that are wanted")
    undesirable_weight: float = Field(1.0, gt=0, description="kto: weight of the answers that are not wanted")


class Judgement(NamedTuple):
    """The log-likelihoods of the answers of some examples, as tensors of shape (answers of an example, examples)."""

    sums: torch.Tensor
    """log-likelihood of each answer"""
    counts: torch.Tensor
    """number of tokens of each answer"""
    of_base: torch.Tensor
    """log-likelihood of each answer with the untouched base model; zeros if the loss does not need it"""
    wanted: torch.Tensor
    """whether each answer is wanted"""

    @property
    def means(self) -> torch.Tensor:
        """Log-likelihood of each answer per token."""
        return self.sums / self.counts


def log_likelihoods(logits: torch.Tensor, batch: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the log-likelihood of the learned tokens of each row of a padded batch, and the number of these tokens."""
    from torch.nn import functional

    from adapterzoo.tokens.batches import IGNORED
    from adapterzoo.tokens.shared_prefix import learned_logits

    selected, targets = learned_logits(logits, batch)
    of_tokens = -functional.cross_entropy(selected.float(), targets, reduction="none")
    learned = batch["labels"][:, 1:] != IGNORED
    sums = of_tokens.new_zeros(len(learned)).index_add(0, learned.nonzero()[:, 0], of_tokens)
    return sums, learned.sum(dim=1)


def text_loss_of(logits: torch.Tensor, batch: dict[str, Any], rows: int) -> torch.Tensor:
    """Return the loss per token of the first rows of a padded batch, the prompts included."""
    from torch.nn import functional

    ids, is_text = batch["input_ids"][:rows, 1:], batch["attention_mask"][:rows, :-1].bool()
    logits = logits[:rows, -batch["input_ids"].shape[1] : -1]
    return functional.cross_entropy(logits[is_text].float(), ids[is_text])


def divergence_of(rises: torch.Tensor) -> torch.Tensor:
    """Return how far a model is from its base, by how much likelier than the base it finds mismatched answers."""
    return rises.mean().clamp(min=0)


def _log_odds(log_likelihood: torch.Tensor) -> torch.Tensor:
    """Return the logarithm of p / (1 - p)."""
    import torch

    value = log_likelihood.clamp(max=SURE)
    return value - torch.log(-torch.expm1(value))


def losses(
    loss: Loss, options: PreferenceOptions, judged: Judgement, divergence: torch.Tensor, text_loss: torch.Tensor
) -> torch.Tensor:
    """Return the loss of each example.

    Args:
        loss: name of the loss.
        options: options of the task.
        judged: the log-likelihoods of the answers.
        divergence: for kto, how far the model is from the base model.
        text_loss: for orpo, the loss per token of the prompts with the chosen answers.
    """
    import torch
    from torch.nn.functional import logsigmoid

    beta = options.beta
    if loss == "kto":  # arXiv 2402.01306, equation 7
        sign = torch.where(judged.wanted, 1.0, -1.0)
        weights = torch.where(judged.wanted, options.desirable_weight, options.undesirable_weight)
        gain = sign * beta * (judged.sums - judged.of_base - divergence)
        return (weights * (1 - gain.sigmoid())).mean(dim=0)
    ratio_chosen, ratio_rejected = judged.sums - judged.of_base
    if loss == "dpo":  # arXiv 2305.18290, equation 7
        return -logsigmoid(beta * (ratio_chosen - ratio_rejected))
    chosen, rejected = judged.means
    if loss == "ipo":  # arXiv 2310.12036, equation 17, per token as TRL does it
        tokens_chosen, tokens_rejected = judged.counts
        return (ratio_chosen / tokens_chosen - ratio_rejected / tokens_rejected - 1 / (2 * beta)) ** 2
    if loss == "simpo":  # arXiv 2405.14734, equation 6
        return -logsigmoid(beta * (chosen - rejected) - options.simpo_gamma)
    # orpo: arXiv 2403.07691, equations 4, 6 and 7
    return text_loss - beta * logsigmoid(_log_odds(chosen) - _log_odds(rejected))


def rewards(loss: Loss, options: PreferenceOptions, judged: Judgement) -> torch.Tensor:
    """Return the reward that the model gives to each answer, as TRL defines it for the loss."""
    return options.beta * (judged.sums - judged.of_base if loss in WITH_BASE else judged.means)
