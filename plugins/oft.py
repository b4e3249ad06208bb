"""OFT: the input of each linear layer is rotated, block by block, before the frozen weight."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from adapterzoo import Context, LinearOptions, PeftMethod, Problem, hookimpl, targeted

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn


class OftOptions(LinearOptions):
    """Options of OFT."""

    oft_block_size: int = Field(32, ge=2, description="side of the rotations; must divide every layer's input")
    module_dropout: float = Field(0.0, ge=0, lt=1, description="share of blocks left unrotated in a step")
    coft: bool = Field(False, description="keep the rotations within eps of the identity")
    eps: float = Field(6e-5, gt=0, description="the bound of coft")
    block_share: bool = Field(False, description="one rotation for all blocks of a layer")
    use_cayley_neumann: bool = Field(True, description="rotations by a series (fast), not by a solve (exact)")
    num_cayley_neumann_terms: int = Field(5, ge=1, description="terms of the series")


class Oft(PeftMethod[OftOptions]):
    """Orthogonal fine-tuning."""

    name = "oft"
    summary = "rotates the inputs of every linear layer"
    paper = "https://arxiv.org/abs/2506.19847"
    group = "orthogonal"
    options = OftOptions
    learning_rate = 8e-4
    learning_rate_source = "the OFTv2 paper (arXiv 2506.19847), Llama 2 on GSM8K, block size 32"
    size_option = "oft_block_size"
    token_wise = True

    def problems(self, skeleton: nn.Module, options: OftOptions, context: Context) -> list[Problem]:
        """PEFT takes another block size for a layer that cannot be cut so, and says nothing."""
        found = super().problems(skeleton, options, context)
        if found:
            return found
        uneven = {
            name: layer.in_features
            for name, layer in targeted(skeleton, options.target_modules).items()
            if hasattr(layer, "in_features") and layer.in_features % options.oft_block_size
        }
        if uneven:
            name, width = next(iter(uneven.items()))
            what = f"{options.oft_block_size} does not divide {width}, the input of {name}"
            hint = f"Sizes that do: {', '.join(str(n) for n in range(2, 129) if width % n == 0)}."
            found.append(Problem("oft_block_size", f"{what} (and {len(uneven) - 1} more layers).", hint))
        return found

    def peft_config(self, model: nn.Module, options: OftOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import OFTConfig

        return OFTConfig(task_type="CAUSAL_LM", **options.model_dump())


@hookimpl
def adapterzoo_methods() -> list[Oft]:
    """The methods of this file."""
    return [Oft()]
