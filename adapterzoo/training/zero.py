"""Divide what a training needs beside the adapter among the ranks, with DeepSpeed's ZeRO, stage 2 or 3.

Stage 2 divides the gradients and the optimizer's state. Stage 3 divides the weights too, those of the base model as
well: a layer is put together just before it is computed. DeepSpeed changes the model and the optimizer in place, so
everything is put back when the training has ended.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.optim import Optimizer

from adapterzoo.machine import ranks
from adapterzoo.methods.layers import trained_parameters
from adapterzoo.model.config import text_config
from adapterzoo.recipe.train import ZERO_STAGES
from adapterzoo.training.divided_optimizer import DividedOptimizer, check_optimizer, groups_of_one_dtype
from adapterzoo.training.module_states import ModuleStates

PART = "optimizer-part-{}.safetensors"
"""file of a rank in a checkpoint: its part of the optimizer's state"""
WEIGHTS = "weights"
DEEPSPEED = "deepspeed"
WIDTHS = 10
"""weights of up to so many times the width of the model stay whole, such as norms (what transformers calls auto)"""
MANY = 10_000
"""what counts as the width of a model that does not say it"""


class Zero:
    """DeepSpeed's engine around one model and its optimizer, until :meth:`end`."""

    def __init__(self, model: nn.Module, own: Optimizer, stage: int, max_norm: float, *, shows_gradients: bool) -> None:
        """Divide the model and the optimizer.

        Args:
            model: the wrapped model.
            own: the optimizer of its trained weights.
            stage: 2 or 3.
            max_norm: gradients with a larger norm are scaled down to this norm.
            shows_gradients: whether callbacks need whole gradients and may change weights after a step.
        """
        check_optimizer(own)
        self.model, self.own, self.stage, self.max_norm = model, own, stage, max_norm
        self.shows_gradients = shows_gradients
        self.trained = list(trained_parameters(model).values())
        own.param_groups[:] = groups_of_one_dtype(own.param_groups)
        self.optimizer = DividedOptimizer(own, self.step)
        self._states = ModuleStates(model, DEEPSPEED, replaces_frozen=stage == ZERO_STAGES["zero3"])
        config = self._config()
        self._known = _announced(config)
        try:
            self._engine = _engine(model, own, config)
        except BaseException:
            self._states.note_additions()
            self._states.undo()
            raise
        self._states.note_additions()

    def _config(self) -> dict[str, Any]:
        division: dict[str, Any] = {
            "stage": self.stage,
            "overlap_comm": False,
            "memory_efficient_linear": False,  # it would replace torch's function for the whole process
            # Its buffers have this size, also if there is less to send.
            "reduce_bucket_size": max(sum(parameter.numel() for parameter in self.trained), 1000),
        }
        if self.stage == ZERO_STAGES["zero3"]:
            division["stage3_param_persistence_threshold"] = self._largest_whole()
            division["stage3_max_reuse_distance"] = 0  # else it keeps whole what is used again within 10^9 elements
        return {
            "train_micro_batch_size_per_gpu": 1,
            "gradient_clipping": self.max_norm,
            "zero_allow_untested_optimizer": True,
            "zero_force_ds_cpu_optimizer": False,
            "zero_optimization": division,
        }

    def _largest_whole(self) -> int:
        """Return the number of elements up to which weights are not divided, because that would save little."""
        width = getattr(text_config(getattr(self.model, "config", None)), "hidden_size", MANY)
        # Callbacks that look at the trained weights need them whole.
        needed = max(parameter.numel() for parameter in self.trained) if self.shows_gradients else 0
        return max(WIDTHS * int(width), needed)

    def backward(self, loss: torch.Tensor, *, last: bool) -> None:
        """Compute gradients, and divide them; ``last`` says whether a step of the optimizer follows."""
        self._engine.set_gradient_accumulation_boundary(last)
        # The model is called directly, and not through the engine, which would say here that a new batch begins.
        self._engine.optimizer.clear_backward_seen_flag()
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self) -> None:
        """Make a step with all parts of the weights; afterwards, show whole gradients where callbacks need them."""
        from deepspeed.utils import safe_get_full_grad

        whole = [safe_get_full_grad(parameter) for parameter in self.trained] if self.shows_gradients else []
        self._engine.step()
        scale = min(1.0, self.max_norm / (self.gradient_norm() + 1e-6))
        for parameter, gradient in zip(self.trained, whole, strict=False):
            parameter.grad = None if gradient is None else (gradient * scale).to(parameter.dtype)

    def gradient_norm(self) -> float:
        """Return the norm of the gradients of the last step, before they were scaled down."""
        norm = float(self._engine.get_global_grad_norm())
        return norm if norm >= 0 else math.nan  # DeepSpeed returns -1 where it is infinite or no number

    def take_changes(self) -> None:
        """Let DeepSpeed go on from weights that a callback may have changed after a step."""
        from deepspeed.utils import safe_set_full_fp32_param

        if not self.shows_gradients:
            return
        with self.whole(changed=True):
            values = [parameter.detach().clone() for parameter in self.trained]
        for parameter, value in zip(self.trained, values, strict=True):
            safe_set_full_fp32_param(parameter, value)

    def whole(self, *, changed: bool = False) -> AbstractContextManager[Any]:
        """Put the trained weights together on all ranks in a ``with`` block, which may change them or not."""
        if self.stage < ZERO_STAGES["zero3"]:
            return nullcontext()
        import deepspeed

        writer = 0 if changed else None
        gathered: AbstractContextManager[Any] = deepspeed.zero.GatheredParameters(self.trained, modifier_rank=writer)
        return gathered

    def save_part(self, folder: Path) -> None:
        """Write this rank's part of the optimizer's state into a checkpoint, and wait for the other ranks."""
        folder.mkdir(parents=True, exist_ok=True)
        save_file(dict(self._part()), folder / PART.format(ranks.number()))
        ranks.wait()

    def load_part(self, folder: Path) -> None:
        """Go on from what :meth:`save_part` wrote."""
        saved = load_file(folder / PART.format(ranks.number()))
        for index, weights in enumerate(self._weights()):
            for name, tensor in saved.items():
                group, _, key = name.partition(".")
                if int(group) != index:
                    continue
                if key == WEIGHTS:
                    weights.data.copy_(tensor)
                else:
                    self.own.state[weights][key] = tensor.to(weights.device) if tensor.dim() else tensor

    def _part(self) -> Iterator[tuple[str, torch.Tensor]]:
        for index, weights in enumerate(self._weights()):
            yield f"{index}.{WEIGHTS}", weights.detach().contiguous()
            for key, value in self.own.state.get(weights, {}).items():
                yield f"{index}.{key}", torch.as_tensor(value).contiguous()

    def _weights(self) -> list[torch.Tensor]:
        """Return the flat parts of the trained weights that this rank steps."""
        divided = self._engine.optimizer
        if self.stage == ZERO_STAGES["zero3"]:
            return list(divided.fp32_partitioned_groups_flat)
        return list(divided.single_partition_of_fp32_groups)

    def end(self, *, well: bool) -> None:
        """Put the model together and give it back what it had; after an error, its weights as they were before."""
        values: list[torch.Tensor] = []
        if well:  # after an error, the other ranks may not come to put weights together
            with self.whole():
                values = [parameter.detach().clone() for parameter in self.trained]
        self._engine.destroy()
        self._states.undo()
        _forget(self.model)
        self._known = None
        with torch.no_grad():
            for parameter, value in zip(self.trained, values, strict=False):
                parameter.copy_(value)


def _announced(config: dict[str, Any]) -> Any:
    """Tell PEFT and transformers that weights may be divided; they know it as long as the returned object lives."""
    from transformers.integrations import HfDeepSpeedConfig

    return HfDeepSpeedConfig(config)


def import_deepspeed() -> Any:
    """Import DeepSpeed, and choose what it computes on."""
    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import deepspeed

    with suppress(ImportError):  # DeepSpeed imports it later, and it changes all optimizers of torch
        import deepspeed.runtime.zero.muon.original_muon
    # On CPUs, it would compile C++ to send tensors through shared memory. What torch has is fast enough.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed


def _engine(model: nn.Module, own: Optimizer, config: dict[str, Any]) -> Any:
    engine, *_ = import_deepspeed().initialize(model=model, optimizer=own, config=config, dist_init_required=False)
    return engine


def _forget(model: nn.Module) -> None:
    """Remove the model from a list of DeepSpeed's that would keep it in memory."""
    from deepspeed.runtime.zero import parameter_offload

    stack = parameter_offload.FWD_MODULE_STACK
    stack[:] = [module for module in stack if module is not model]


@contextmanager
def ended(zeros: list[Zero]) -> Iterator[None]:
    """End the division at the end of a ``with`` block, well or after an error."""
    well = False
    try:
        yield
        well = True
    finally:
        while zeros:
            zeros.pop().end(well=well)
