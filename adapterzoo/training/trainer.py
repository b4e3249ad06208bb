"""Training one wrapped model: transformers' Trainer, with what would make the table wrong mended."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler

from adapterzoo.errors import AdapterzooError, NotFiniteError
from adapterzoo.evaluation.evaluate import likelihoods
from adapterzoo.methods.layers import trained_parameters
from adapterzoo.model.row_attention import ROW_LENGTHS
from adapterzoo.recipe.schema import TrainSection
from adapterzoo.tokens.encode import Encoded
from adapterzoo.tokens.packing import check_separate
from adapterzoo.tokens.shared_prefix import SharedPrefix, model_arguments
from adapterzoo.training import arguments as training_arguments
from adapterzoo.training import checkpoints
from adapterzoo.training.arguments import total_steps
from adapterzoo.training.checkpoints import Checkpoint

STATE = "adapter_state.safetensors"
LOGS = "logs"
OnStep = Callable[[int, int, float, int], None]
"""called with step, all steps, loss, and tokens seen so far"""
MakeOptimizer = Callable[[type[torch.optim.Optimizer], dict[str, Any]], torch.optim.Optimizer | None]
"""called with the recipe's optimizer and its arguments; None stands for that optimizer as it is"""


@dataclass(frozen=True)
class Trained:
    """What training one cell gave, apart from the weights."""

    seconds: float
    tokens: int
    """real tokens that went through the model, padding left out"""
    history: list[dict[str, float]]
    positions_per_token: float | None
    """positions that were computed for each real token; None where a checkpoint held the finished training"""


def train_adapter(
    model: Any,
    encoded: Encoded,
    settings: TrainSection,
    *,
    learning_rate: float,
    seed: int,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    optimizer: MakeOptimizer = lambda kind, settings: None,
    resume: bool = True,
    prefix: SharedPrefix | None = None,
    on_step: OnStep = lambda step, steps, loss, tokens: None,
) -> Trained:
    """Train a wrapped model in place.

    The order of the rows is a matter of the seed alone: row k of it is the same for every method.

    Args:
        prefix: what makes batches of rows that begin alike; None where every row is to be padded.
        folder: where checkpoints go, and where training goes on from if there are any and ``resume`` is set.

    Raises:
        NotFiniteError: the loss became NaN or infinite.
    """
    steps = total_steps(settings, len(encoded.training_rows))
    if encoded.packs:
        check_separate(model, encoded.packs, encoded.pad_id)
    arguments = training_arguments.arguments(settings, steps, learning_rate, seed, folder, fp16=_half(model))
    # A cell trains on one device: transformers would multiply the batch by the number of GPUs it sees.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    checkpoint = checkpoints.newest(folder, wanted=resume and bool(settings.save_steps))
    # What was trained before the checkpoint has taken its time too.
    before = checkpoint.seconds if checkpoint else 0.0
    trainer = CompletionTrainer(
        model=model,
        args=arguments,
        train_dataset=encoded.training_rows,
        eval_dataset=encoded.validation,
        data_collator=partial(encoded.collate, prefix=prefix),
        callbacks=[*callbacks, _Watch(on_step, before, settings.save_limit)],
    )
    trainer.pad_id, trainer.prefix, trainer.own_optimizer = encoded.pad_id, prefix, optimizer
    # They print every log line, which is the progress display's business.
    for printer in (PrinterCallback, ProgressCallback):
        trainer.remove_callback(printer)
    for callback in trainer.callback_handler.callbacks:
        # TensorBoard's would be among the checkpoints, which are gone when the cell is done.
        if getattr(callback, "logging_dir", "") is None:
            callback.logging_dir = str(folder.parent / LOGS)
    if checkpoint and checkpoint.step >= steps:
        seconds = trainer.finished(checkpoint)
    else:
        result = trainer.train(resume_from_checkpoint=str(checkpoint.path) if checkpoint else None)
        seconds = before + result.metrics["train_runtime"]
    return Trained(
        seconds=seconds,
        tokens=int(trainer.state.num_input_tokens_seen),
        history=[_plain(entry) for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry],
        positions_per_token=trainer.positions / float(trainer.tokens) if trainer.positions else None,
    )


class CompletionTrainer(Trainer):  # type: ignore[misc]  # transformers is not followed for types
    """The Trainer, whose evaluation is adapterzoo's: the loss on completions, and nothing a method adds to it."""

    pad_id: int
    prefix: SharedPrefix | None
    own_optimizer: MakeOptimizer
    control: Any
    positions = 0
    """that went through the model, padding too"""
    tokens: Any = 0
    """real ones that these stand for; a tensor, so that no step waits for its number"""

    def __init__(self, model: Any, **settings: Any) -> None:
        # transformers takes any adapter but PEFT's for none at all, and refuses to train a quantized base.
        model._hf_peft_config_loaded = True
        try:
            super().__init__(model=model, **settings)
        finally:
            del model._hf_peft_config_loaded

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """The model's own loss."""
        self.positions += inputs["input_ids"].numel()
        self.tokens = self.tokens + inputs["attention_mask"].sum()
        if ROW_LENGTHS in inputs:
            inputs = model_arguments(inputs, model)
        elif "use_cache" in inputs:  # packed rows, whose mask is there to count tokens by
            inputs = {name: value for name, value in inputs.items() if name != "attention_mask"}
        return super().compute_loss(model, inputs, *args, **kwargs)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        # From the lengths and the seed alone: the same order for every method.
        lengths = [_length(row) for row in self.train_dataset]
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        generator = torch.Generator().manual_seed(self.args.data_seed)
        return LengthGroupedSampler(size, lengths=lengths, generator=generator)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """The method's own optimizer, or the recipe's."""
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        own = self.own_optimizer(kind, {"weight_decay": self.args.weight_decay, **settings})
        if own is None:
            return super().create_optimizer(model)
        self.optimizer = own
        return own

    # A checkpoint holds what training changes, the same for every method: how a method saves its adapter for use
    # is its own affair, and need not have all of it. The base and what follows from the seed are made again.
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        save_file({name: tensor.detach().contiguous() for name, tensor in _state(self.model).items()}, folder / STATE)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved, state = load_file(Path(resume_from_checkpoint) / STATE), _state(self.model)
        if saved.keys() != state.keys():
            raise AdapterzooError(f"{resume_from_checkpoint} is of another adapter than is trained now")
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(saved[name])

    def finished(self, checkpoint: Checkpoint) -> float:
        """Take over a training that was finished, and return its seconds: the trainer would do one step more."""
        self._load_from_checkpoint(str(checkpoint.path))
        self.state = TrainerState.load_from_json(str(checkpoint.path / TRAINER_STATE_NAME))
        # A checkpoint does not hold the effect of callbacks that act when training begins or ends.
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return checkpoint.seconds

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """The mean loss of a completion's token on the validation rows."""
        rows = [example.tokens for example in self.eval_dataset]
        found = likelihoods(self.model, rows, self.pad_id, self.args.eval_batch_size, self.prefix)
        metrics = {f"{metric_key_prefix}_loss": sum(one.loss for one in found) / sum(one.tokens for one in found)}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _Watch(TrainerCallback):  # type: ignore[misc]
    """Tells the loss of each step, stops at one that is no number, and completes each checkpoint."""

    def __init__(self, on_step: OnStep, seconds_before: float, save_limit: int) -> None:
        self.on_step = on_step
        self.save_limit = save_limit
        self._begun = time.perf_counter() - seconds_before

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        checkpoints.complete(folder / f"checkpoint-{state.global_step}", time.perf_counter() - self._begun)
        checkpoints.keep_newest(folder, self.save_limit)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise NotFiniteError(f"the {name.replace('_', ' ')} became {logs[name]} at step {state.global_step}")
        self.on_step(state.global_step, state.max_steps, logs["loss"], int(state.num_input_tokens_seen))


def _length(row: Any) -> int:
    """Tokens of a training row, packed or not."""
    return sum(len(ids) for ids, _ in (row if isinstance(row, list) else [row.tokens]))


def _state(model: Any) -> dict[str, torch.Tensor]:
    """What training may change: trained parameters, and buffers."""
    return {**trained_parameters(model), **dict(model.named_buffers())}


def _half(model: Any) -> bool:
    """Whether gradients need scaling: float16 on a GPU."""
    where = next(model.parameters())
    return bool(getattr(model, "dtype", None) == torch.float16 and where.device.type == "cuda")


def _plain(entry: dict[str, Any]) -> dict[str, float]:
    kept = ("step", "loss", "eval_loss", "learning_rate", "grad_norm", "epoch")
    return {name: float(entry[name]) for name in kept if name in entry}
