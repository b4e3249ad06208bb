"""Train one wrapped model with transformers' Trainer, changed where its own behaviour would make the table wrong."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler

from adapterzoo.errors import AdapterzooError, NotFiniteError
from adapterzoo.machine import stopping
from adapterzoo.machine.stopping import StoppedError
from adapterzoo.methods.layers import trained_parameters
from adapterzoo.recipe.schema import EvaluateSection, TrainSection
from adapterzoo.tasks.examples import Examples
from adapterzoo.tokens.shared_prefix import SharedPrefix
from adapterzoo.training import arguments as training_arguments
from adapterzoo.training import checkpoints
from adapterzoo.training.arguments import total_steps
from adapterzoo.training.checkpoints import Checkpoint
from adapterzoo.training.fair_play import FairPlay
from adapterzoo.training.training_watch import TrainingWatch, batch_content

STATE = "adapter_state.safetensors"
METHOD_STATE = "method_state.safetensors"
COUNTED = "counted.json"
LOGS = "logs"
OnStep = Callable[[int, int, float, int], None]
"""is called with the step, the number of steps in all, the loss, and the number of tokens seen so far"""
MakeOptimizer = Callable[[type[torch.optim.Optimizer], dict[str, Any]], torch.optim.Optimizer | None]
"""is called with the class of the recipe's optimizer and its arguments; returns None to use that optimizer"""
GetState = Callable[[], dict[str, torch.Tensor]]
"""returns what a method keeps in checkpoints, beside parameters and buffers"""
SetState = Callable[[dict[str, torch.Tensor]], None]
"""is called with what was kept, when training goes on from a checkpoint"""


@dataclass(frozen=True)
class Trained:
    """The measurements of one finished training; the weights are in the model."""

    seconds: float
    tokens: int
    """number of tokens that went through the model, without padding"""
    history: list[dict[str, float]]
    """losses and learning rates by step"""
    positions_per_token: float | None
    """positions computed for each token: above 1 with padding, below 1 with a shared prefix; None if a checkpoint held
    the finished training"""


def train_adapter(
    model: Any,
    encoded: Examples,
    settings: TrainSection,
    *,
    learning_rate: float,
    seed: int,
    folder: Path,
    callbacks: Sequence[TrainerCallback] = (),
    optimizer: MakeOptimizer = lambda kind, settings: None,
    state: tuple[GetState, SetState] = (dict, lambda state: None),
    resume: bool = True,
    prefix: SharedPrefix | None = None,
    fair_play: FairPlay | None = None,
    on_step: OnStep = lambda step, steps, loss, tokens: None,
    say: Callable[[str], None] = lambda message: None,
) -> Trained:
    """Train a wrapped model in place.

    The order of the rows depends on the seed alone, so it is the same for every method.

    Args:
        model: the wrapped model.
        encoded: the training rows and validation rows.
        settings: the recipe's ``train`` section.
        learning_rate: the cell's learning rate.
        seed: the cell's seed.
        folder: folder for checkpoints.
        callbacks: the method's callbacks.
        optimizer: makes the method's own optimizer, if it has one.
        state: returns and takes what the method keeps in checkpoints.
        resume: whether to resume from a checkpoint in ``folder``.
        prefix: joins rows that begin with the same tokens into one sequence; None if rows are padded.
        fair_play: notes where the method departs from the rules of the comparison.
        on_step: is called after every step.
        say: is called with a sentence if a checkpoint cannot be used.

    Raises:
        NotFiniteError: the loss or the gradient became NaN or infinite.
    """
    steps = total_steps(settings, len(encoded.training_rows))
    encoded.check_model(model)
    fp16 = _scales_gradients(model)
    arguments = training_arguments.arguments(settings, steps, learning_rate, seed, folder, fp16=fp16)
    # A last batch that is too small for the loss would be a step of which nothing is learned.
    arguments.dataloader_drop_last = 0 < len(encoded.training_rows) % settings.batch_size < encoded.smallest_batch
    checkpoint = checkpoints.newest(folder, wanted=resume, say=say)
    # The training before the checkpoint counts as training time.
    seconds_before = checkpoint.seconds if checkpoint else 0.0
    trainer: TaskTrainer = TaskTrainer(
        model=model,
        args=arguments,
        train_dataset=[*encoded.training_rows],  # a copy, because a method may change the order of the rows
        eval_dataset=encoded.validation,
        data_collator=lambda rows: trainer.watch.made(encoded.collate(rows, prefix=prefix), len(rows)),
        callbacks=[*callbacks, _StepCallback(on_step, seconds_before, settings.save_limit)],
        examples=encoded,
        prefix=prefix,
        own_optimizer=optimizer,
        method_state=state,
    )
    trainer.keep_logs_in(folder.parent / LOGS)
    return Trained(
        seconds=trainer.train_watched(fair_play or FairPlay(), callbacks, checkpoint),
        tokens=int(trainer.state.num_input_tokens_seen),
        history=[_kept(entry) for entry in trainer.state.log_history if "loss" in entry or "eval_loss" in entry],
        positions_per_token=trainer.positions / float(trainer.tokens) if trainer.positions else None,
    )


class TaskTrainer(Trainer):  # type: ignore[misc]  # transformers is not followed for types
    """A Trainer that takes the loss from a task, and evaluates without the terms that a method adds to the loss."""

    control: Any
    watch: TrainingWatch
    positions = 0
    """number of positions that went through the model, with padding"""
    tokens: Any = 0
    """number of tokens in all rows, without padding; a tensor, because making it a plain number would delay a step"""

    def __init__(
        self,
        model: Any,
        examples: Examples,
        prefix: SharedPrefix | None,
        own_optimizer: MakeOptimizer,
        method_state: tuple[GetState, SetState],
        **settings: Any,
    ) -> None:
        self.examples, self.prefix, self.own_optimizer = examples, prefix, own_optimizer
        self.get_method_state, self.set_method_state = method_state
        # transformers recognizes only PEFT's adapters, and would otherwise refuse to train a quantized base model.
        model._hf_peft_config_loaded = True
        try:
            super().__init__(model=model, **settings)
        finally:
            del model._hf_peft_config_loaded

    def train_watched(
        self, fair_play: FairPlay, callbacks: Sequence[TrainerCallback], checkpoint: Checkpoint | None
    ) -> float:
        """Train, from a checkpoint if there is one, while it is watched; return the seconds of the whole training.

        Args:
            fair_play: notes where the method departs from the rules of the comparison.
            callbacks: the method's callbacks, which may hold tensors.
            checkpoint: the checkpoint to resume from; None to begin.
        """
        resumed = checkpoint is not None
        with fair_play.training(self.model, self.examples, self.args, resumed=resumed, roots=callbacks) as self.watch:
            return self.train_from(checkpoint)

    def train_from(self, checkpoint: checkpoints.Checkpoint | None) -> float:
        """Train, from a checkpoint if there is one; return the seconds of the whole training."""
        if checkpoint is None:
            return float(self.train().metrics["train_runtime"])
        if checkpoint.step >= self.args.max_steps:
            return self.load_finished(checkpoint)
        result = self.train(resume_from_checkpoint=str(checkpoint.path))
        return checkpoint.seconds + float(result.metrics["train_runtime"])

    def keep_logs_in(self, folder: Path) -> None:
        """Make loggers write into a folder; remove callbacks that print, because the progress display does that."""
        for printer in (PrinterCallback, ProgressCallback):
            self.remove_callback(printer)
        for callback in self.callback_handler.callbacks:
            # TensorBoard would write its files among the checkpoints, which are removed when the cell is done.
            if getattr(callback, "logging_dir", "") is None:
                callback.logging_dir = str(folder)

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Return the batches of the next step, with what the model adds to them, and the number of their labels."""
        batches, number = super().get_batch_samples(*args, **kwargs)
        for batch in batches:
            self.watch.taken(batch)
        # A resumed training has the same seeds. It restores the state of the generator only after this call.
        first_seed = hash((self.args.seed, self.state.global_step))
        extended = [
            self.examples.sampled(batch, self.model, first_seed + index, self.prefix)
            for index, batch in enumerate(batches)
        ]
        return extended, number

    def compute_loss(self, model: Any, inputs: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Return the task's loss, and count positions and tokens."""
        self.positions += inputs["input_ids"].numel()
        self.tokens = self.tokens + inputs["attention_mask"].sum()
        content = batch_content(inputs)
        arguments = self.examples.arguments(inputs, model)
        if self.examples.trainer_computes_loss:
            loss = super().compute_loss(model, arguments, *args, **kwargs)
        else:
            # The trainer divides by the number of batches in a step only if the model does not do that itself.
            self.model_accepts_loss_kwargs = False
            loss = self.examples.loss(model, arguments)
        self.watch.computed(loss, inputs, content)
        return loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nobody reads this estimate, and computing it would visit every parameter at every step."""
        return 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        # Order the rows by their lengths and the seed alone, so that the order is the same for every method.
        lengths = [_length(row) for row in self.train_dataset]
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        generator = torch.Generator().manual_seed(self.args.data_seed)
        return LengthGroupedSampler(size, lengths=lengths, generator=generator)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the method's own optimizer, or the recipe's if the method has none."""
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        settings = {"weight_decay": self.args.weight_decay, **settings}
        own = self.own_optimizer(kind, settings)
        if own is None:
            super().create_optimizer(model)
        else:
            self.optimizer = own
        self.watch.set_optimizer(self.optimizer, kind, settings)
        return self.optimizer

    # A checkpoint of any method holds all tensors that training changes. The files of a saved adapter may lack some
    # of them. The base model, and what the seed determines, do not have to be saved.
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for name, tensors in ((STATE, _state(self.model)), (METHOD_STATE, self.get_method_state())):
            save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, folder / name)
        (folder / COUNTED).write_text(json.dumps(self.watch.state()), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved, state = load_file(Path(resume_from_checkpoint) / STATE), _state(self.model)
        if saved.keys() != state.keys():
            raise AdapterzooError(f"{resume_from_checkpoint} is a checkpoint of another adapter")
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(saved[name])
        self.set_method_state(load_file(Path(resume_from_checkpoint) / METHOD_STATE))
        self.watch.restore(json.loads((Path(resume_from_checkpoint) / COUNTED).read_text(encoding="utf-8")))

    def load_finished(self, checkpoint: Checkpoint) -> float:
        """Load the checkpoint of a finished training; return its seconds. The trainer itself would do one more step."""
        self._load_from_checkpoint(str(checkpoint.path))
        self.state = TrainerState.load_from_json(str(checkpoint.path / TRAINER_STATE_NAME))
        # Call the callbacks for the start and the end of training, because a checkpoint does not hold what they do.
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return checkpoint.seconds

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Return the loss on the validation rows, as the task measures it."""
        settings = EvaluateSection(metrics=["loss"], batch_size=self.args.eval_batch_size)
        measured = self.examples.evaluate(self.model, settings, split="validation", prefix=self.prefix)
        metrics = {f"{metric_key_prefix}_loss": measured.metrics["test_loss"]}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _StepCallback(TrainerCallback):  # type: ignore[misc]
    """A callback that reports each step, stops if its loss is not finite, and completes each checkpoint."""

    def __init__(self, on_step: OnStep, seconds_before: float, save_limit: int) -> None:
        self.on_step = on_step
        self.save_limit = save_limit
        self._begun = time.perf_counter() - seconds_before

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = control.should_save or bool(stopping.asked())

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir)
        checkpoints.complete(folder / f"checkpoint-{state.global_step}", time.perf_counter() - self._begun)
        checkpoints.keep_newest(folder, self.save_limit)
        if stopping.asked():
            raise StoppedError

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **kwargs: Any) -> None:
        if "loss" not in logs:
            return
        for name in ("loss", "grad_norm"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise NotFiniteError(f"the {name.replace('_', ' ')} became {logs[name]} at step {state.global_step}")
        self.on_step(state.global_step, state.max_steps, logs["loss"], int(state.num_input_tokens_seen))


def _length(row: Any) -> int:
    """Return the number of tokens of a training row, packed or not."""
    return sum(len(ids) for ids, _ in row) if isinstance(row, list) else int(row.size)


def _state(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that training may change: trained parameters and buffers."""
    return {**trained_parameters(model), **dict(model.named_buffers())}


def _scales_gradients(model: Any) -> bool:
    """Tell whether gradients need scaling, as they do with float16 on a GPU."""
    device = next(model.parameters()).device
    return bool(getattr(model, "dtype", None) == torch.float16 and device.type == "cuda")


def _kept(entry: dict[str, Any]) -> dict[str, float]:
    names = ("step", "loss", "eval_loss", "learning_rate", "grad_norm", "epoch")
    return {name: float(entry[name]) for name in names if name in entry}
