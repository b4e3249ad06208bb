"""The base class of methods that learn a prompt, which is put in front of every row as a cache of keys and values.

PEFT puts virtual tokens in front of the batch and drops ``position_ids``. With padding on the left, the distance
between a row and its prompt then depends on the other rows, and PEFT expects labels for all columns of the
batch, while batches here have labels for the last columns only. For causal attention, a prompt is equivalent to the
keys and values that it leaves in the cache. With these, positions, padding, labels and generation are the same as for
every other method. What is trained and saved is exactly PEFT's.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from adapterzoo import Context, PeftMethod, Problem
from adapterzoo.methods.contract import TASK_TYPES, OptionsT

if TYPE_CHECKING:
    from torch import nn


class PromptMethod(PeftMethod[OptionsT]):
    """A method that trains a prompt and changes no layer."""

    group = "prompt"
    prepends_tokens = True
    starts_at_base = False
    mergeable_into = ()
    task_types = tuple(name for name in TASK_TYPES if name != "SEQ_2_SEQ_LM")  # its encoder keeps no cache
    size_option = "num_virtual_tokens"

    def problems(self, skeleton: nn.Module, options: OptionsT, context: Context) -> list[Problem]:
        """Return a problem if the model has no cache of keys and values for a prompt."""
        from adapterzoo.model.positions import learned_positions

        problems = super().problems(skeleton, options, context)
        causal = any(getattr(module, "is_causal", False) for module in skeleton.modules())
        if not causal or getattr(skeleton.config, "is_encoder_decoder", False):
            what = "puts a learned prompt into the cache of a causal decoder, and this model is none."
            problems.append(Problem("model", f"{self.name} {what}", "Leave the method out, or choose another model."))
        positions, tokens = learned_positions(skeleton), getattr(options, self.size_option)
        if positions is not None and context.longest_row + tokens > positions >= context.longest_row:
            what = f"with {tokens} more in front, the longest row has {context.longest_row + tokens} tokens, "
            what += f"and the model has learned {positions} positions."
            hint = f"Lower it, or data.max_length, by {context.longest_row + tokens - positions} in all."
            problems.append(Problem(self.size_option, what, hint))
        return problems

    def wrap(self, model: nn.Module, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        return _to_prompt_model(super().wrap(model, options, context))

    def load(self, model: nn.Module, folder: Path, options: OptionsT, context: Context) -> nn.Module:
        """See :meth:`Method.load`."""
        return _to_prompt_model(super().load(model, folder, options, context))


def _to_prompt_model(model: nn.Module) -> nn.Module:
    """Give PEFT's model the ``forward`` and ``generate`` that put its prompt into the cache."""
    from adapterzoo_plugins._prompt_model import PromptModel

    model.__class__ = PromptModel
    return model
