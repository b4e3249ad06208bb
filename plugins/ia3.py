"""IA3: keys, values and the feed-forward's inner activations are rescaled by learned vectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import Field

from adapterzoo import Context, Options, PeftMethod, Problem, hookimpl, linear_layers

if TYPE_CHECKING:
    from peft import PeftConfig
    from torch import nn

# The paper's three places, by the names that model families give them. PEFT's own defaults rescale keys in
# some families and queries in others: there, changing the model would change the method.
KEYS_AND_VALUES = ("k_proj", "v_proj")
FEED_FORWARD = ("down_proj", "fc2")


class Ia3Options(Options):
    """Options of IA3."""

    target_modules: list[str] | None = Field(
        None, description="layers to rescale; by default keys, values and the feed-forward's second layer"
    )
    feedforward_modules: list[str] | None = Field(
        None, description="those of them whose input is rescaled, not their output; by default the feed-forward's"
    )


class Ia3(PeftMethod[Ia3Options]):
    """Infused adapter by inhibiting and amplifying inner activations."""

    name = "ia3"
    summary = "rescales keys, values and feed-forward"
    paper = "https://arxiv.org/abs/2205.05638"
    group = "sparse and scaling"
    options = Ia3Options
    learning_rate = 5e-3
    learning_rate_source = "PEFT's method comparison (ia3/llama-3.2-3B-all-attn-5k-lr0.005); the paper has 3e-3"

    def problems(self, skeleton: nn.Module, options: Ia3Options, context: Context) -> list[Problem]:
        """See :meth:`Method.problems`."""
        if options.target_modules is not None:
            found = super().problems(skeleton, options, context)
            for name in set(options.feedforward_modules or []) - set(options.target_modules):
                found.append(Problem("feedforward_modules", f"'{name}' is not among the target_modules."))
            return found
        there = {name.rpartition(".")[2] for name in linear_layers(skeleton)}
        if set(KEYS_AND_VALUES) <= there and there & set(FEED_FORWARD):
            return []
        what = "this architecture names its keys, values or feed-forward in a way that is not known here."
        return [Problem("target_modules", what, f"Give target_modules and feedforward_modules from: {sorted(there)}.")]

    def peft_config(self, model: nn.Module, options: Ia3Options, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import IA3Config

        targets = options.target_modules or [*KEYS_AND_VALUES, *FEED_FORWARD]
        inner = options.feedforward_modules
        return IA3Config(
            task_type="CAUSAL_LM",
            target_modules=targets,
            feedforward_modules=[name for name in targets if name in FEED_FORWARD] if inner is None else inner,
        )


@hookimpl
def adapterzoo_methods() -> list[Ia3]:
    """The methods of this file."""
    return [Ia3()]
