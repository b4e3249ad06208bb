"""IA3: keys, values and the feed-forward's inner activations are rescaled by learned vectors."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pydantic import Field

from adapterzoo import Context, Options, PeftMethod, Problem, hookimpl, linear_layers

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from torch import nn
    from transformers import TrainerCallback

# The names that model families give to the layers that the paper rescales. PEFT's own defaults are not used: they
# rescale keys in some families and queries in others, so the method would depend on the model.
KEYS_AND_VALUES = ("k_proj", "v_proj", "key", "value", "k", "v")
FEED_FORWARD = ("down_proj", "fc2", "mlp.c_proj", "dense_4h_to_h", "fc_out", "wo")
# Model type -> the layer that computes queries, keys and values together, and a function that tells which of its output
# features are queries.
FUSED: dict[str, tuple[str, Callable[[Any, torch.Tensor], torch.Tensor]]] = {
    "gpt2": ("c_attn", lambda config, feature: feature < config.hidden_size),
    "gpt_neox": ("query_key_value", lambda config, feature: feature // _head_width(config) % 3 == 0),
    "phi3": ("qkv_proj", lambda config, feature: feature < config.num_attention_heads * _head_width(config)),
}


class Ia3Options(Options):
    """The options of IA3."""

    target_modules: list[str] | None = Field(
        None, description="layers to rescale; by default keys, values and the second layer of the feed-forward"
    )
    feedforward_modules: list[str] | None = Field(
        None, description="target modules whose input is rescaled, not the output; by default those of the feed-forward"
    )


class Ia3(PeftMethod[Ia3Options]):
    """Infused adapter by inhibiting and amplifying inner activations."""

    name = "ia3"
    summary = "rescales keys, values and feed-forward"
    paper = "https://arxiv.org/abs/2205.05638"
    group = "sparse and scaling"
    options = Ia3Options
    learning_rate = 5e-3
    learning_rate_source = "PEFT's method comparison (ia3/llama-3.2-3B-all-attn-5k-lr0.005); the paper uses 3e-3"
    departs_from = ("between steps",)  # with weight decay, it sets the factors of fused queries back after each step
    token_wise = True

    def problems(self, skeleton: nn.Module, options: Ia3Options, context: Context) -> list[Problem]:
        """See :meth:`Method.problems`."""
        if options.target_modules is not None:
            problems = super().problems(skeleton, options, context)
            for name in set(options.feedforward_modules or []) - set(options.target_modules):
                problems.append(Problem("feedforward_modules", f"'{name}' is not among the target_modules."))
            return problems
        if _default_targets(skeleton) is not None:
            return []
        names = {name.rpartition(".")[2] for name in linear_layers(skeleton)}
        what = "adapterzoo does not know how this architecture names its keys, values or feed-forward."
        return [Problem("target_modules", what, f"Give target_modules and feedforward_modules from: {sorted(names)}.")]

    def peft_config(self, model: nn.Module, options: Ia3Options, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import IA3Config

        targets = options.target_modules or _default_targets(model) or []
        feed_forward = options.feedforward_modules
        if feed_forward is None:
            feed_forward = [name for name in targets if f".{name}".endswith(tuple(f".{end}" for end in FEED_FORWARD))]
        return IA3Config(target_modules=targets, feedforward_modules=feed_forward)

    def wrap(self, model: Any, options: Ia3Options, context: Context) -> nn.Module:
        """See :meth:`Method.wrap`."""
        wrapped = super().wrap(model, options, context)
        wrapped.queries = [] if options.target_modules else _freeze_queries(wrapped, model.config)
        return wrapped

    def callbacks(self, options: Ia3Options, context: Context) -> list[TrainerCallback]:
        """Return a callback that keeps the factors of queries at 1 in layers that compute queries, keys and values."""
        from transformers import TrainerCallback

        class ResetQueries(TrainerCallback):
            """Undoes weight decay, which changes parameters even without a gradient."""

            def on_step_end(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
                for parameter, query in model.queries:
                    parameter.data[query] = 1.0

        return [ResetQueries()]


def _default_targets(model: Any) -> list[str] | None:
    """Return the names of the layers to rescale; None where this architecture's names are not known."""
    names = linear_layers(model)
    feed_forward = [end for end in FEED_FORWARD if any(name.endswith(f".{end}") for name in names)]
    separate = [end for end in KEYS_AND_VALUES if any(name.endswith(f".{end}") for name in names)]
    fused = FUSED.get(model.config.model_type)
    attention = separate if len(separate) == 2 else [fused[0]] if fused else []
    return [*attention, *feed_forward] if attention and feed_forward else None


def _freeze_queries(wrapped: nn.Module, config: Any) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Stop the gradients of queries in layers that also compute keys and values.

    Returns:
        The factors of each such layer, with a mask of those that belong to queries.
    """
    import torch

    if config.model_type not in FUSED:
        return []
    layer, is_query = FUSED[config.model_type]
    factors = []
    for name, parameter in wrapped.named_parameters():
        if f".{layer}.ia3_l" in name:
            query = is_query(config, torch.arange(len(parameter), device=parameter.device))
            parameter.register_hook(lambda gradient, query=query: gradient.masked_fill(query[:, None], 0.0))
            factors.append((parameter, query))
    return factors


def _head_width(config: Any) -> int:
    """Return the number of features of one attention head."""
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width


@hookimpl
def adapterzoo_methods() -> list[Ia3]:
    """Return the methods of this file."""
    return [Ia3()]
