"""BOFT: each weight is multiplied by a product of sparse rotations in a butterfly arrangement."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from adapterzoo import Context, LinearOptions, PeftMethod, Problem, hookimpl

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class BoftOptions(LinearOptions):
    """The options of BOFT."""

    boft_block_size: int = Field(4, ge=2, description="size of the rotations; must divide every layer's input size")
    boft_n_butterfly_factor: int = Field(1, ge=1, description="number of sparse rotations that are multiplied")
    boft_dropout: float = Field(0.0, ge=0, lt=1, description="share of blocks left unrotated in a step")


class Boft(PeftMethod[BoftOptions]):
    """Orthogonal butterfly fine-tuning."""

    name = "boft"
    summary = "multiplies weights by butterfly rotations"
    paper = "https://arxiv.org/abs/2311.06243"
    group = "orthogonal"
    options = BoftOptions
    learning_rate = 8e-4
    learning_rate_source = "the rate of oft, which trains rotations too; PEFT's method comparison has none for boft"
    mergeable_into = ("none", "int8")
    size_option = "boft_block_size"
    token_wise = True

    def problems(self, skeleton: nn.Module, options: BoftOptions, context: Context) -> list[Problem]:
        """Return a problem where PEFT would multiply fewer rotations without a message."""
        from peft.tuners.boft.layer import get_fbd_cuda

        problems = super().problems(skeleton, options, context)
        if options.boft_n_butterfly_factor > 1 and not get_fbd_cuda():
            what = "more than 1 needs PEFT's CUDA extension, which cannot be built here; PEFT would take 1."
            hint = "Leave it out, or install ninja and CUDA's compiler."
            problems.append(Problem("boft_n_butterfly_factor", what, hint))
        return problems

    def peft_config(self, model: nn.Module, options: BoftOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import BOFTConfig

        return BOFTConfig(**options.model_dump())


@hookimpl
def adapterzoo_methods() -> list[Boft]:
    """Return the methods of this file."""
    return [Boft()]
