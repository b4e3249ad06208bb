"""AdaLoRA: low-rank updates in SVD form; training removes ranks in the layers where they matter least."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from adapterzoo import Context, LinearOptions, PeftMethod, Problem, hookimpl

if TYPE_CHECKING:
    from pathlib import Path

    import torch
    from peft import PeftConfig
    from torch import nn
    from transformers import TrainerCallback


IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")
"""what PEFT's rank allocator remembers of each weight from step to step"""
RANKS = "rank_pattern"


class AdaloraOptions(LinearOptions):
    """The options of AdaLoRA."""

    init_r: int = Field(12, ge=1, description="rank of every update at the start")
    target_r: int = Field(8, ge=1, description="average rank at the end")
    lora_alpha: float = Field(32.0, gt=0, description="the update is scaled by lora_alpha / init_r")
    lora_dropout: float = Field(0.0, ge=0, lt=1, description="dropout on the adapter's input")
    orth_reg_weight: float = Field(0.1, ge=0, description="weight of the regulariser that keeps the SVD orthogonal")
    tinit: int | None = Field(None, ge=0, description="steps before ranks are removed; by default a tenth of all")
    tfinal: int | None = Field(
        None, ge=0, description="steps after the last rank is removed; by default four tenths of all"
    )
    deltaT: int = Field(1, ge=1, description="steps between removals")  # noqa: N815  # PEFT's and the paper's name
    beta1: float = Field(0.85, gt=0, lt=1, description="smoothing of the importance of each rank")
    beta2: float = Field(0.85, gt=0, lt=1, description="smoothing of the uncertainty of the importance")

    @model_validator(mode="after")
    def _shrinks(self) -> AdaloraOptions:
        if self.target_r > self.init_r:
            raise ValueError("target_r is above init_r, but AdaLoRA can only lower the rank")
        return self


class Adalora(PeftMethod[AdaloraOptions]):
    """Adaptive low-rank adaptation, which moves rank between layers."""

    name = "adalora"
    summary = "LoRA that moves rank to where it is needed"
    paper = "https://arxiv.org/abs/2303.10512"
    group = "low-rank"
    options = AdaloraOptions
    learning_rate = 1e-3
    learning_rate_source = "the paper, table 10 (SQuAD); its tables also give the other defaults"
    size_option = "init_r"
    departs_from = ("between steps",)  # after each step it sets the least important singular values to zero
    token_wise = True

    def resized(self, options: AdaloraOptions, size: int) -> dict[str, Any]:
        """See :meth:`Method.resized`. The share of the rank that is removed stays the same."""
        return {"init_r": size, "target_r": max(1, round(size * options.target_r / options.init_r))}

    def problems(self, skeleton: nn.Module, options: AdaloraOptions, context: Context) -> list[Problem]:
        """See :meth:`Method.problems`."""
        problems = super().problems(skeleton, options, context)
        tinit, tfinal = _schedule(options, context.total_steps)
        # PEFT fixes the ranks by importances that it has measured in at least one earlier step.
        if tinit + tfinal >= context.total_steps or tfinal > context.total_steps - 2:
            what = f"{tinit} + {tfinal} steps leave none of the {context.total_steps} steps for lowering the rank."
            problems.append(Problem("tinit, tfinal", what, "Train longer, or give smaller values."))
        return problems

    def peft_config(self, model: nn.Module, options: AdaloraOptions, context: Context) -> PeftConfig:
        """See :meth:`PeftMethod.peft_config`."""
        from peft import AdaLoraConfig

        steps = context.total_steps
        settings = options.model_dump()
        settings["tinit"], settings["tfinal"] = _schedule(options, steps)
        # PEFT adds the regulariser in every forward pass, and an optimizer step may have several.
        settings["orth_reg_weight"] = options.orth_reg_weight / context.summed_losses
        return AdaLoraConfig(total_step=steps, **settings)

    def callbacks(self, options: AdaloraOptions, context: Context) -> list[TrainerCallback]:
        """Return a callback that reallocates rank at every step; without it, AdaLoRA would never remove a rank."""
        from transformers import TrainerCallback

        class Reallocate(TrainerCallback):
            """Reallocates rank after each optimizer step, before the gradients are cleared."""

            def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any, **kwargs: Any) -> None:
                # The trainer has not counted this step yet. Count from 1, because otherwise PEFT would not reach the
                # step in which it fixes the ranks, if that is the last one.
                model.base_model.update_and_allocate(state.global_step + 1)

        return [Reallocate()]

    def training_state(self, model: Any) -> dict[str, torch.Tensor]:
        """Return the running importance of the weights, and, once they are fixed, the ranks that are kept."""
        import torch

        allocator = model.base_model.rankallocator
        importance = {
            f"{kind}|{name}": tensor for kind in IMPORTANCE for name, tensor in getattr(allocator, kind).items()
        }
        ranks = model.peft_config["default"].rank_pattern or {}
        return importance | {f"{RANKS}|{name}": torch.tensor(kept) for name, kept in ranks.items()}

    def restore_training_state(self, model: Any, state: dict[str, torch.Tensor]) -> None:
        """See :meth:`Method.restore_training_state`."""
        allocator, device = model.base_model.rankallocator, next(model.parameters()).device
        allocator.reset_ipt()
        ranks = {}
        for key, tensor in state.items():
            kind, name = key.split("|")
            if kind == RANKS:
                ranks[name] = tensor.tolist()
            else:
                getattr(allocator, kind)[name] = tensor.to(device)
        model.peft_config["default"].rank_pattern = ranks or None

    def load(self, model: nn.Module, folder: Path, options: AdaloraOptions, context: Context) -> nn.Module:
        """See :meth:`PeftMethod.load`. Losses can be computed with it, for which PEFT needs the adapter's name."""
        wrapped: Any = super().load(model, folder, options, context)
        wrapped.base_model.trainable_adapter_name = "default"
        loaded: nn.Module = wrapped
        return loaded

    def findings(self, model: Any) -> dict[str, Any]:
        """Return the final rank of each layer."""
        pattern = model.peft_config["default"].rank_pattern or {}
        return {
            "ranks": {
                name.removesuffix(".default").removesuffix(".lora_E"): sum(kept) for name, kept in pattern.items()
            }
        }


def _schedule(options: AdaloraOptions, steps: int) -> tuple[int, int]:
    """Return the numbers of steps before ranks are first removed and after they are last removed.

    The default shares of all steps are the medians of the paper's tables.
    """
    tinit = steps // 10 if options.tinit is None else options.tinit
    tfinal = steps * 4 // 10 if options.tfinal is None else options.tfinal
    return tinit, tfinal


@hookimpl
def adapterzoo_methods() -> list[Adalora]:
    """Return the methods of this file."""
    return [Adalora()]
