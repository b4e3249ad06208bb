"""A Trainer of transformers, changed where its own behaviour would make the table wrong."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback, ProgressCallback, TrainerState
from transformers.trainer_pt_utils import LengthGroupedSampler

from adapterzoo.errors import AdapterzooError
from adapterzoo.machine import ranks
from adapterzoo.methods.layers import trained_parameters
from adapterzoo.recipe.schema import EvaluateSection
from adapterzoo.tasks.examples import Examples, sizes
from adapterzoo.tokens.shared_prefix import SharedPrefix
from adapterzoo.training import checkpoints
from adapterzoo.training.checkpoints import Checkpoint
from adapterzoo.training.fair_play import FairPlay
from adapterzoo.training.method_part import MethodPart
from adapterzoo.training.parts import Parts, sent_once
from adapterzoo.training.random_states import save_random_states
from adapterzoo.training.sharding import average_gradients, make_whole, send_from_rank_0
from adapterzoo.training.task_loss import smoothed, task_loss
from adapterzoo.training.training_watch import TrainingWatch, batch_content

STATE = "adapter_state.safetensors"
METHOD_STATE = "method_state.safetensors"
COUNTED = "counted.json"


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
        part: MethodPart,
        sharding: str = "none",
        **settings: Any,
    ) -> None:
        self.examples, self.prefix, self.part = examples, prefix, part
        self.parts = Parts(examples)
        # A probe is one process, whatever the recipe says.
        self.is_sharded = sharding != "none" and ranks.count() > 1
        # transformers recognizes only PEFT's adapters, and would otherwise refuse to train a quantized base model.
        model._hf_peft_config_loaded = True
        try:
            super().__init__(model=model, data_collator=self.made, **settings)
        finally:
            del model._hf_peft_config_loaded
        # Then transformers does not wrap the model in DDP, which would average gradients once more.
        self.is_distributed_loading_by_transformers = self.is_sharded

    def train_watched(self, fair_play: FairPlay, checkpoint: Checkpoint | None) -> float:
        """Train, from a checkpoint if there is one, while it is watched; return the seconds of the whole training.

        Args:
            fair_play: notes where the method departs from the rules of the comparison.
            checkpoint: the checkpoint to resume from; None to begin.
        """
        resumed, roots = checkpoint is not None, self.part.callbacks  # callbacks may hold tensors
        if self.is_sharded:
            make_whole(list(trained_parameters(self.model).values()))
        with (
            fair_play.training(self.model, self.examples, self.args, resumed=resumed, roots=roots) as self.watch,
            self.divided(),
        ):
            return self.train_from(checkpoint)

    def divided(self) -> AbstractContextManager[None]:
        """Return a context in which the trainer divides what it needs among the ranks, if it does."""
        return nullcontext() if self.is_sharded else sent_once(self.model)

    def _move_model_to_device(self, model: Any, device: torch.device) -> None:
        if not self.is_sharded:
            super()._move_model_to_device(model, device)
            return
        # On a CPU, the trainer would copy all weights from "cpu" to "cpu:0".
        for tensor in [*model.parameters(), *model.buffers()]:
            if tensor.device.type != device.type:
                tensor.data = tensor.data.to(device)

    def _sync_replicated_trainable_parameters(self, model: Any) -> None:
        send_from_rank_0(list(trained_parameters(self.model).values()))

    @contextmanager
    def _defer_fsdp_gradient_reduction(self) -> Iterator[None]:
        yield

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Make the gradients of a batch; average them over the ranks if nothing else does."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if self.is_sharded and self.accelerator.sync_gradients:
            self.average_gradients()
        return loss

    def average_gradients(self) -> None:
        """Give all ranks the mean of their gradients."""
        average_gradients(list(trained_parameters(self.model).values()))

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

    def made(self, rows: Sequence[Any]) -> dict[str, Any]:
        """Return a batch of training rows, or this rank's part of it."""
        return self.watch.made(self.parts.batch(rows, self.prefix), len(rows))

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        loader = super()._get_dataloader(*args, **kwargs)
        if ranks.count() > 1:
            # Every rank goes through all batches, and takes its part of each.
            loader.batch_sampler.num_processes, loader.batch_sampler.process_index = 1, 0
        return loader

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> tuple[list[dict[str, Any]], Any]:
        """Return the batches of the next step, with what the model adds to them, and the number of their labels."""
        batches, number = super().get_batch_samples(*args, **kwargs)
        for batch in batches:
            self.watch.taken(batch)
        weight = self.parts.weigh(batches)
        if ranks.count() > 1:
            number = None if number is None else torch.full_like(number, weight)
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
        content, (share, counts) = batch_content(inputs), self.parts.next_factors()
        arguments = self.examples.arguments(inputs, self.model)
        if self.examples.trainer_computes_loss:
            rest = 1.0
            if kwargs.get("num_items_in_batch") is not None and share:
                # A method divides what it adds by the batches of a usual step; an epoch may end with fewer of them.
                rest = self.args.gradient_accumulation_steps / self.current_gradient_accumulation_steps
                # The model divides by it: it has to be the number that makes the loss a mean over this part.
                kwargs["num_items_in_batch"] = kwargs["num_items_in_batch"] * (share * rest)
            if self.label_smoother is None:
                loss = super().compute_loss(model, arguments, *args, **kwargs)
            else:
                # The trainer's own moves labels only for classes that it knows, which prompt tuning hides from it, and
                # leaves out what a method adds to the loss.
                number = kwargs.get("num_items_in_batch")
                loss = task_loss(model, arguments, smoothed(inputs, self.args.label_smoothing_factor, number))
            loss = loss * rest
        else:
            # The trainer divides by the number of batches in a step only if the model does not do that itself.
            self.model_accepts_loss_kwargs = False
            loss = self.examples.loss(model, arguments) * counts
        self.watch.computed(loss, inputs, content)
        # DDP takes the mean of the gradients of all ranks, where the sum of the parts' is meant.
        return loss * (share * ranks.count()) if ranks.count() > 1 else loss

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nobody reads this estimate, and computing it would visit every parameter at every step."""
        return 0

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        # Order the rows by their lengths and the seed alone, so that the order is the same for every method.
        lengths = [int(length) for length in row_lengths(self.train_dataset)]
        size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        return _LengthGroupedSampler(size, lengths, self.args.data_seed)

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Create the method's own optimizer, or the recipe's if the method has none."""
        kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
        settings = {"weight_decay": self.args.weight_decay, **settings}
        own = self.part.optimizer(kind, settings)
        if own is None:
            super().create_optimizer(model)
        else:
            self.optimizer = own
        self.watch.set_optimizer(self.optimizer, kind, settings)
        return self.optimizer

    # A checkpoint of any method holds all tensors that training changes. The files of a saved adapter may lack some
    # of them. The base model, and what the seed determines, do not have to be saved.
    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        if not self.args.should_save:
            return
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for name, tensors in ((STATE, _state(self.model)), (METHOD_STATE, self.part.get_state())):
            save_file({key: tensor.detach().contiguous() for key, tensor in tensors.items()}, folder / name)
        (folder / COUNTED).write_text(json.dumps(self.watch.state()), encoding="utf-8")

    def _save_rng_state(self, output_dir: str) -> None:
        save_random_states(super()._save_rng_state, Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        saved, state = load_file(Path(resume_from_checkpoint) / STATE), _state(self.model)
        if saved.keys() != state.keys():
            raise AdapterzooError(f"{resume_from_checkpoint} is a checkpoint of another adapter")
        with torch.no_grad():
            for name, tensor in state.items():
                tensor.copy_(saved[name])
        self.part.set_state(load_file(Path(resume_from_checkpoint) / METHOD_STATE))
        self.watch.restore(json.loads((Path(resume_from_checkpoint) / COUNTED).read_text(encoding="utf-8")))

    def load_finished(self, checkpoint: Checkpoint) -> float:
        """Load the checkpoint of a finished training; return its seconds. The trainer itself would do one more step."""
        self._load_from_checkpoint(str(checkpoint.path))
        self.state = TrainerState.load_from_json(str(checkpoint.path / TRAINER_STATE_NAME))
        # Call the callbacks for the start and the end of training, because a checkpoint does not hold what they do.
        self.control = self.callback_handler.on_train_begin(self.args, self.state, self.control)
        self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
        return checkpoint.seconds

    def spreading(self) -> AbstractContextManager[None]:
        """Return a context in which each rank measures its own part of the validation rows."""
        return ranks.spreading()

    def evaluate(self, *args: Any, metric_key_prefix: str = "eval", **kwargs: Any) -> dict[str, float]:
        """Return the loss on the validation rows, as the task measures it."""
        settings = EvaluateSection(metrics=["loss"], batch_size=self.args.eval_batch_size)
        with self.spreading():
            measured = self.examples.evaluate(self.model, settings, split="validation", prefix=self.prefix)
        metrics = {f"{metric_key_prefix}_loss": measured.metrics["test_loss"]}
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics


class _LengthGroupedSampler(LengthGroupedSampler):  # type: ignore[misc]
    """A sampler that has an order of its own for each epoch, also in a training that goes on in a later one."""

    def __init__(self, batch_size: int, lengths: list[int], seed: int) -> None:
        self.seed = seed
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator().manual_seed(seed))

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch."""
        self.generator.manual_seed(self.seed + epoch)


def row_lengths(rows: Sequence[Any]) -> Sequence[int]:
    """Return the number of tokens of each training row, packed or not."""
    packed = isinstance(rows[0], list)
    return [sum(len(ids) for ids, _ in row) for row in rows] if packed else sizes(rows)


def _state(model: Any) -> dict[str, torch.Tensor]:
    """Return the tensors that training may change: trained parameters and buffers."""
    return {**trained_parameters(model), **dict(model.named_buffers())}
