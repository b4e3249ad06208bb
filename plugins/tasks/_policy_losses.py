"""The options of the task reinforcement, and its losses, computed from rewards and log-likelihoods."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, FiniteFloat, field_validator

from adapterzoo import Options

if TYPE_CHECKING:
    import torch

Loss = Literal["grpo", "dr_grpo", "rloo"]
SMALL = 1e-4  # TRL's: keeps the advantages finite if all answers to a prompt get almost the same reward


class ReinforcementOptions(Options):
    """The options of the task; names and defaults are TRL's where it has the same option."""

    rewards: dict[str, FiniteFloat] = Field(
        default_factory=lambda: {"exact_match": 1.0},
        min_length=1,
        description="names of rewards, or rewards with their weights; metrics are rewards too",
    )
    loss: Loss = Field("grpo", description="how answers with different rewards are weighed against each other")
    answers: int = Field(8, ge=2, description="number of answers that are sampled for each prompt (num_generations)")
    max_new_tokens: int = Field(64, ge=1, description="largest number of tokens of an answer")
    temperature: float = Field(1.0, ge=0.01, description="higher values give more varied answers in training")
    reward_seconds: float = Field(
        60.0, gt=0, le=86400, description="time after which the reward of one answer is given up"
    )

    @field_validator("rewards", mode="before", json_schema_input_type=dict[str, float] | list[str])
    @classmethod
    def _with_weights(cls, value: Any) -> Any:
        """Return names of rewards as a mapping to their weights, which are 1."""
        names = [value] if isinstance(value, str) else value
        if isinstance(names, dict):
            if names and not any(names.values()):
                raise ValueError("all weights are 0")
            return names
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("write a list of names, like [exact_match], or weights, like {exact_match: 1}")
        if len(set(names)) < len(names):
            raise ValueError("a reward is named twice")
        return dict.fromkeys(names, 1.0)


def advantages(loss: Loss, rewards: torch.Tensor) -> torch.Tensor:
    """Return how much better each answer is than the others to the same prompt.

    Args:
        loss: the loss.
        rewards: tensor of shape (prompts, answers of a prompt).
    """
    if loss == "rloo":
        others = (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
        return rewards - others
    centred = rewards - rewards.mean(dim=1, keepdim=True)
    return centred / (rewards.std(dim=1, keepdim=True) + SMALL) if loss == "grpo" else centred


def policy_loss(
    loss: Loss, likelihoods: torch.Tensor, rows: torch.Tensor, advantages: torch.Tensor, longest: int
) -> torch.Tensor:
    """Return the loss of a batch of answers.

    The answers come from the model itself, with its present weights: the ratio of the new likelihood to the old one is
    1, so nothing is clipped.

    Args:
        loss: the loss.
        likelihoods: log-likelihood of each token of all answers.
        rows: number of the answer that each token belongs to.
        advantages: one for each answer.
        longest: largest number of tokens that an answer may have.
    """
    import torch

    def by_answer(values: torch.Tensor) -> torch.Tensor:
        return values.new_zeros(len(advantages)).index_add(0, rows, values)

    if loss == "rloo":
        sums = by_answer(likelihoods)
        return -((sums - sums.detach()).exp() * advantages).mean()
    parts = by_answer(-(likelihoods - likelihoods.detach()).exp() * advantages[rows])
    if loss == "dr_grpo":
        return parts.sum() / (len(advantages) * longest)
    return (parts / by_answer(torch.ones_like(likelihoods)).clamp(min=1.0)).mean()
