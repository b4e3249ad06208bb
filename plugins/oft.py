"""OFT: the input of each linear layer is rotated, block by block, before the frozen weight is applied."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from adapterzoo_plugins._idle import idle_options
from pydantic import Field

from adapterzoo import Context, LinearOptions, PeftMethod, Problem, hookimpl, targeted

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class OftOptions(LinearOptions):
    """The options of OFT. PEFT's ``module_dropout`` is left out, because PEFT 0.21.2 never applies it."""

    oft_block_size: int = Field(32, ge=2, description="size of the rotations; must divide every layer's input size")
    coft: bool = Field(False, description="keep the rotations within a distance of eps from the identity")
    eps: float = Field(6e-5, gt=0, description="largest distance from the identity with coft")
    block_share: bool = Field(False, description="use one rotation for all blocks of a layer")
    use_cayley_neumann: bool = Field(True, description="compute rotations with a series (fast, not exact)")
    num_cayley_neumann_terms: int = Field(5, ge=1, description="number of terms of that series")


class Oft(PeftMethod[OftOptions]):
    """Orthogonal fine-tuning."""

    name = "oft"
    summary = "rotates the inputs of every linear layer"
    paper = "https://arxiv.org/abs/2506.19847"
    group = "orthogonal"
    options = OftOptions
    learning_rate = 8e-4
    learning_rate_source = "the OFTv2 paper (arXiv 2506.19847), Llama 2 on GSM8K, block size 32"
    departs_from = ("between steps",)  # with coft, a forward pass first draws the rotations towards the identity
    size_option = "oft_block_size"
    token_wise = True

    def problems(self, skeleton: nn.Module, options: OftOptions, context: Context) -> list[Problem]:
        """Return a problem where the block size does not divide a layer: PEFT would use another without a message.

        There are also problems for options that have no effect, because another option is false.
        """
        problems = super().problems(skeleton, options, context)
        if not options.coft:
            problems += idle_options(options, ("eps",), "it is for coft, which is false")
        if not options.use_cayley_neumann:
            why = "it is for use_cayley_neumann, which is false"
            problems += idle_options(options, ("num_cayley_neumann_terms",), why)
        if problems:
            return problems
        widths = {
            name: layer.in_features
            for name, layer in targeted(skeleton, options.target_modules).items()
            if hasattr(layer, "in_features")
        }
        not_divisible = [name for name, width in widths.items() if width % options.oft_block_size]
        if not_divisible:
            name, others = not_divisible[0], len(not_divisible) - 1
            more = f" (and {others} more layer{'s' if others > 1 else ''})" if others else ""
            what = f"{options.oft_block_size} does not divide {widths[name]}, the input size of {name}{more}."
            common = math.gcd(*widths.values())
            sizes = ", ".join(str(size) for size in range(2, 129) if common % size == 0)
            hint = f"Choose from: {sizes}." if sizes else "No size divides every layer: choose fewer target_modules."
            problems.append(Problem("oft_block_size", what, hint))
        return problems

    def peft_config(self, model: nn.Module, options: OftOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import OFTConfig

        return OFTConfig(**options.model_dump())


@hookimpl
def adapterzoo_methods() -> list[Oft]:
    """Return the methods of this file."""
    return [Oft()]
