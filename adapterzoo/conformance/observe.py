"""Use every function of a method on one tiny base, and record what happens; ``properties.py`` judges the records."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.conformance import elsewhere
from adapterzoo.conformance.declining import declared_problems, problems_with
from adapterzoo.conformance.effects import missing_effects
from adapterzoo.conformance.measure import (
    base_logits,
    greedy,
    greedy_gap,
    labels_gap,
    logits,
    logits_of_many,
    loss,
    shared_prefix_gap,
)
from adapterzoo.conformance.models import (
    ARCHITECTURES,
    CAUSAL,
    joins_rows,
    rows,
    rows_for,
    tiny_base,
)
from adapterzoo.conformance.observation import Observation
from adapterzoo.conformance.properties import repeats
from adapterzoo.conformance.sizes import count_sizes
from adapterzoo.conformance.tensors import same_tensor, saved_base
from adapterzoo.conformance.thorough import larger_model, long_training, other_settings
from adapterzoo.conformance.trial import SAVED_AT, STEPS, Trial
from adapterzoo.conformance.variants import FEW_STEPS, SEED, VARIANT_SECONDS, few, observe_variants
from adapterzoo.conformance.watch import GradientWatcher, record_events, save_only_at
from adapterzoo.machine.memory import spare_imported_modules, spare_present_objects
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.machine.world import World
from adapterzoo.methods.contract import Context, Method
from adapterzoo.methods.layers import trained_parameters
from adapterzoo.model.head import put_new_head
from adapterzoo.results.adapter_folder import has_weights
from adapterzoo.results.result import plain_findings
from adapterzoo.tasks.batches import sealed, shuffled_batches

if TYPE_CHECKING:
    from torch import nn

START_SECONDS = 600  # another process has to start, and has limits of its own


def observe(
    method: Method[Any],
    architecture: str,
    quantization: str,
    options: Any = None,
    task_type: str = CAUSAL,
    *,
    thorough: bool = False,
) -> Observation:
    """Use a method on one base for one type of task, and return everything that the properties need to know."""
    spare_imported_modules()
    chosen = options or method.options()
    elsewhere.start()
    world = World(method)
    spare_present_objects()
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="adapterzoo-") as folder:
        observer = Observer(method, architecture, quantization, chosen, Path(folder), task_type, thorough)
        observed = observer.observe()
    observed.left_behind += [*dict.fromkeys(observer.base.replaced), *world.restore()]
    observer.base.replaced.clear()
    return observed


class Observer:
    """Applies one method to one base, saves into one folder, and records what happens."""

    def __init__(
        self,
        method: Method[Any],
        architecture: str,
        quantization: str,
        options: Any,
        folder: Path,
        task_type: str,
        thorough: bool,
    ) -> None:
        from adapterzoo.recipe.schema import TrainSection

        self.method, self.options, self.thorough = method, options, thorough
        self.base = tiny_base(architecture, quantization, task_type=task_type)
        self.causal = task_type == CAUSAL
        self.rows: Any = rows() if self.causal else rows_for(task_type)
        self.observed = Observation(architecture, quantization)
        # If joining rows changes even the answers of the base model, it cannot show whether the method is sound.
        self.joins = self.causal and not self.observed.batch_dependent and joins_rows(architecture, quantization)
        self.settings = TrainSection(
            steps=STEPS,
            batch_size=len(self.rows.train),
            scheduler="constant",
            warmup=0,
            eval_steps=SAVED_AT if self.causal else 0,
        )
        self.context = Context(
            quantization=quantization,
            total_steps=STEPS,
            gradient_accumulation=1,
            seed=0,
            task_type=task_type,
            batches=shuffled_batches(sealed(self.rows), len(self.rows.train), 0),
        )
        self.trial = Trial(method, options, self.context, architecture, self.rows, folder)
        self.problems = partial(problems_with, method, architecture, self.context)

    def observe(self) -> Observation:
        """Use every function of the method; return what was observed."""
        observed, base, trial = self.observed, self.base, self.trial
        if not self.use_once():
            return observed
        self._note_changed_base("load()")
        with observed.stage("elsewhere", START_SECONDS):
            found = trial.elsewhere()
            observed.findable = found is not None
            observed.logits.update(found or {})
        with observed.stage("again"), base.borrow() as model:
            observed.again, _ = trial.train(trial.wrap(model), self.settings, "again")
        self._note_changed_base("training")
        if self.method.resumes:
            self.resume()
        with observed.stage("bfloat16"):
            self._use_bfloat16()
        if self.method.size_option:
            with observed.stage("size"):
                observed.sizes = count_sizes(trial, base, observed.trainable, self.problems)
        here = (observed.architecture, observed.quantization, self.context.task_type)
        if here == (ARCHITECTURES[0], self.method.quantizations[0], self.method.task_types[0]):
            self._try_other_values()
            if self.thorough:
                observed.variants.append(long_training(trial, base, self.settings))
        if self.thorough and here == (ARCHITECTURES[0], "none", CAUSAL):
            observed.variants += larger_model(trial, self.settings)
        if self.thorough:
            observed.variants += other_settings(trial, base, self.settings, observed.logits["trained"])
        return observed

    def use_once(self) -> bool:
        """Wrap, train, save, merge and load once, and on a quantized base train without quantization too.

        Returns:
            Whether the method was wrapped and trained in time, so that more can be observed.
        """
        observed, base, trial = self.observed, self.base, self.trial
        observed.logits.update(base_logits(observed.architecture, observed.quantization, self.context.task_type))
        with observed.stage("problems"):
            observed.declined = self.problems(self.options)
        if observed.declined or observed.errors:
            return False
        with base.borrow() as model:
            self._use(model)
        if observed.quantization in self.method.mergeable_into:
            base.invalidate()
        if observed.quantization != "none" and "none" in self.method.quantizations:
            plain = tiny_base(observed.architecture, "none", task_type=self.context.task_type)
            observed.logits["plain base"] = logits(plain.get_model(), self.rows)
            with observed.stage("plain"), plain.borrow() as model:
                wrapped = trial.wrap(model)
                observed.logits["plain start"] = logits(wrapped, self.rows)
                trial.train(wrapped, self.settings, "plain")
                observed.logits["plain trained"] = logits(wrapped, self.rows)
        if "wrap" in observed.errors or "train" in observed.errors or observed.hung:
            return False
        with observed.stage("load"), base.borrow() as model:
            observed.logits["loaded"] = logits(trial.load(model), self.rows)
        return True

    def resume(self) -> None:
        """Train again from the checkpoint of the first training."""
        with self.observed.stage("resume"), self.base.borrow() as model:
            resuming = self.settings.model_copy(update={"save_steps": SAVED_AT})
            self.observed.resumed, _ = self.trial.train(self.trial.wrap(model), resuming, "first")

    def _use(self, model: nn.Module) -> None:
        """Wrap, train, save and merge once, and record everything."""
        observed, trial = self.observed, self.trial
        tensors = dict(model.named_parameters())
        frozen = {name: tensor.detach().clone() for name, tensor in tensors.items()}
        with observed.stage("wrap"):
            wrapped = trial.wrap(model)
            observed.trainable = sum(p.numel() for p in wrapped.parameters() if p.requires_grad)
            observed.logits["start"] = logits(wrapped, self.rows)
            observed.losses.append(loss(wrapped, self.rows))
        if "wrap" in observed.errors:
            return
        with observed.stage("train"):
            self._train_watched(wrapped)
            observed.changed = [name for name, before in frozen.items() if not same_tensor(before, tensors[name])]
            observed.logits["trained"] = logits(wrapped, self.rows)
            observed.losses.append(loss(wrapped, self.rows))
        if "train" in observed.errors:
            return
        with observed.stage("padding"):
            observed.logits["alone"] = logits(wrapped, self.rows, 1)
            if self.causal and not observed.batch_dependent:
                observed.logits.update(logits_of_many(wrapped))
        if self.causal:
            with observed.stage("generate"):
                observed.greedy_gap = greedy_gap(wrapped, self.rows)
        if self.joins and self.method.token_wise:
            with observed.stage("shared prefix"):
                observed.shared_prefix_gap = shared_prefix_gap(wrapped, self.rows)
        if self.causal:
            with observed.stage("labels"):
                observed.labels_gap = labels_gap(wrapped, self.rows)
        with observed.stage("findings"):
            plain_findings(self.method.findings(wrapped))
        with observed.stage("save"):
            trial.save(wrapped)
            observed.files = sorted(path.name for path in trial.adapter.rglob("*") if path.is_file())
            observed.has_safetensors = has_weights(trial.adapter)
            if not self.method.changes_base:
                observed.saved_base = saved_base(trial.adapter, frozen)
        if observed.quantization in self.method.mergeable_into:
            with observed.stage("merge"):
                merged: Any = self.method.merge(wrapped)
                observed.merged = sorted(set(dict(merged.named_parameters())) ^ set(tensors))
                observed.logits["merged"] = logits(merged, self.rows)
                if self.causal and observed.quantization == "none":
                    merged.save_pretrained(str(trial.merged))

    def _try_other_values(self) -> None:
        """Start with another seed, and use the method with other options, in short trainings."""
        observed, base, other = self.observed, self.base, self.trial.other("seed", seed=SEED)
        with observed.stage("other seed"), base.borrow() as model:
            put_new_head(model, SEED)
            observed.logits["base, other seed"] = logits(model, self.rows)
            observed.logits["start, other seed"] = logits(other.wrap(model), self.rows)
        short, briefly = few(self.settings), self.trial.other("short", total_steps=FEW_STEPS)
        where = (self.method, observed.architecture, briefly.context)
        observed.variants += observe_variants(briefly, base, short, partial(problems_with, *where))
        with observed.stage("effects", VARIANT_SECONDS):
            # If two trainings with the same options differ, an option cannot be seen to change nothing.
            if repeats(self.method, observed) is None:
                # Options that PEFT does not accept raise an error here too, without being tried on a skeleton first.
                observed.missing_effects += missing_effects(briefly, base, short, partial(declared_problems, *where))

    def _train_watched(self, model: Any) -> None:
        """Train, and record the calls of the method's callbacks, the gradients, and what breaks the rules."""
        observed, events = self.observed, list[tuple[Any, list[str]]]()

        def record(callbacks: Sequence[Any]) -> None:
            events.extend((callback, record_events(callback)) for callback in callbacks)

        gradients = GradientWatcher(set(trained_parameters(model)))
        saving = self.settings.model_copy(update={"save_steps": SAVED_AT})
        watchers = [gradients.callback(), save_only_at(SAVED_AT)]
        observed.first, history = self.trial.train(model, saving, "first", watchers, observe=record)
        observed.broken_rules = self.trial.fair_play.record()["broken_rules"]
        observed.steps = sum("loss" in entry for entry in history)
        observed.without_gradient = sorted(gradients.missing)
        observed.silent_callbacks = [type(callback).__name__ for callback, calls in events if not calls]

    def _use_bfloat16(self) -> None:
        """Train, save and load an adapter on a base in bfloat16."""
        observed, context = self.observed, self.context
        base = tiny_base(observed.architecture, observed.quantization, "bfloat16", context.task_type)
        trial = self.trial.other("bfloat16")
        with base.borrow() as model:
            wrapped = trial.wrap(model)
            trained = trained_parameters(wrapped).values()
            observed.dtypes = sorted({str(parameter.dtype).removeprefix("torch.") for parameter in trained})
            trial.train(wrapped, self.settings.model_copy(update={"steps": 2}))
            observed.logits["bfloat16"] = logits(wrapped, self.rows)
            if self.causal:
                greedy(wrapped, self.rows)
            trial.save(wrapped)
        with base.borrow() as model:
            observed.logits["bfloat16 loaded"] = logits(trial.load(model), self.rows)

    def _note_changed_base(self, when: str) -> None:
        """Note whether the last use of the base model changed the content of its tensors."""
        if self.base.was_changed and not self.method.changes_base:
            self.observed.left_behind.append(f"numbers that the base model or its quantization keeps, by {when}")
