"""Try everything that ``adapterzoo methods --where`` can ask for with a method, on the tiny models of the kit."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from adapterzoo.conformance.batch_properties import generates, rows_alone, shares_a_prefix
from adapterzoo.conformance.compiling import compile_problem
from adapterzoo.conformance.differences import MERGE_TOLERANCE, NOT_CHECKED, describe_error
from adapterzoo.conformance.distributed import distributed_problem
from adapterzoo.conformance.models import ARCHITECTURES, CAUSAL, TASK_ARCHITECTURES, model_folder, tiny_base
from adapterzoo.conformance.observe import Observer
from adapterzoo.conformance.offloading import offload_problem
from adapterzoo.conformance.properties import (
    Check,
    base_untouched,
    learns,
    same_when_quantized,
    starts_at_base,
    trains,
    wraps,
)
from adapterzoo.conformance.reasons import reason
from adapterzoo.conformance.saving_properties import merges, resumes, saves
from adapterzoo.conformance.thorough import checkpointing
from adapterzoo.conformance.trial import time_limit
from adapterzoo.conformance.variants import variant_problem
from adapterzoo.machine.memory import spare_imported_modules
from adapterzoo.machine.processes import in_processes
from adapterzoo.machine.quiet import quiet_libraries
from adapterzoo.machine.world import World
from adapterzoo.methods.calls import load_adapter
from adapterzoo.methods.capabilities import COLUMNS, UNDECLARED, Record, declared
from adapterzoo.methods.contract import QUANTIZATIONS, TASK_TYPES, Method
from adapterzoo.model.head import load_head
from adapterzoo.recipe.train import ZERO_STAGES

# A method is sound on a base if these properties hold, the first of which that does not is the reason why it is not.
SOUND: tuple[Check, ...] = (
    wraps,
    starts_at_base,
    trains,
    learns,
    same_when_quantized,
    base_untouched,
    rows_alone,
    generates,
    saves,
)
NOT_CAUSAL = "it trains no causal language models"
SECONDS = 300.0
"""longest time for compiling"""


def try_method(method: Method[Any]) -> Record:
    """Return what a method can do, and for what it cannot do the reason, also where it does not even declare to.

    Args:
        method: the method, with its default options.
    """
    import torch._dynamo  # changes torch where it is imported, which is nothing that the method does

    del torch
    spare_imported_modules()
    world = World(method)
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="adapterzoo-") as folder:
        record = _Tries(method, Path(folder)).record()
    world.restore()
    for column, claim in declared(method).items():
        if record[column] is True and not claim:
            record[column] = UNDECLARED
    return {column: record[column] for column in COLUMNS if column in record}


def trains_on(method: Method[Any], quantization: str) -> bool | str:
    """Return True if a method trains on a quantization, is saved and is loaded; otherwise what is wrong."""
    spare_imported_modules()
    world = World(method)
    with quiet_libraries(), tempfile.TemporaryDirectory(prefix="adapterzoo-") as folder:
        record = _Tries(method, Path(folder)).on(quantization)
    world.restore()
    return record[quantization]


class _Tries:
    """Everything that is tried with one method."""

    def __init__(self, method: Method[Any], folder: Path) -> None:
        self.method, self.folder = method, folder
        # Try also what the method does not declare.
        self.willing = copy.copy(method)
        vars(self.willing).update(mergeable_into=QUANTIZATIONS, token_wise=True, resumes=True)
        known = method.requires_quantization or ("none" if "none" in method.quantizations else method.quantizations[0])
        self.quantization: str = known
        """quantization of the base model wherever the quantization is not what is tried"""
        self.task_type = CAUSAL if CAUSAL in method.task_types else method.task_types[0]
        """type of the task wherever the task is not what is tried"""
        self.used: dict[tuple[str, str], Observer] = {}

    def record(self) -> Record:
        record: Record = {}
        for task_type in TASK_TYPES:
            record[task_type] = _verdict(self.willing, self._use(self.quantization, task_type), SOUND)
        for quantization in QUANTIZATIONS:
            record.update(self.on(quantization))
        for columns, attempt in (
            (["resumes", "shared-prefix"], _resume),
            (["checkpointing"], _checkpointing),
            (["ddp", "fsdp2"], _distributed),
            (list(ZERO_STAGES), _zero),
            (["offload"], _offload),
            (["peft"], _peft),
            (["merges", "export", "export-whole"], _merge),
            (["compile", "compile-whole"], _compile),
        ):
            record.update(self._attempt(columns, attempt, record[self.task_type]))
        return record

    def _use(self, quantization: str, task_type: str) -> Observer:
        """Use the method once on the first architecture that it does not decline; return who observed it."""
        key = (quantization, task_type)
        for architecture in ARCHITECTURES if task_type == CAUSAL else TASK_ARCHITECTURES[task_type]:
            if key not in self.used or self.used[key].observed.declined:
                folder, options = self.folder / "-".join((architecture, *key)), self.method.options()
                self.used[key] = Observer(self.willing, architecture, quantization, options, folder, task_type, False)
                self.used[key].use_once()
        return self.used[key]

    def on(self, quantization: str) -> Record:
        """Return whether the method trains on a quantization, and merges into it."""
        column, merging = f"merges-{quantization}", Record()
        if quantization != "none":
            merging[column] = "it does not train on such a base"
        needed = self.method.requires_quantization
        if needed not in (None, quantization):
            return {quantization: f"its base always has the quantization {needed}", **merging}
        observer = self._use(quantization, self.task_type)
        trained = _verdict(self.willing, observer, SOUND)
        if merging and trained is True:
            merging[column] = _verdict(self.willing, observer, [merges])
        return {quantization: trained, **merging}

    def _attempt(
        self, columns: list[str], attempt: Callable[[Method[Any], Observer], Record], trained: bool | str
    ) -> Record:
        """Return what is tried once, after a training with the method's usual quantization and type of task."""
        if trained is not True:
            return dict.fromkeys(columns, trained)
        try:
            with time_limit(columns[0], 2 * SECONDS):
                return attempt(self.willing, self._use(self.quantization, self.task_type))
        except (Exception, SystemExit) as error:  # the method under test may raise anything
            return dict.fromkeys(columns, reason(describe_error(error)))


def _verdict(method: Method[Any], observer: Observer, checks: Sequence[Check]) -> bool | str:
    """Return True if properties hold; otherwise what is wrong."""
    observed = observer.observed
    if observed.declined:
        return reason(" ".join(problem.what for problem in observed.declined))
    for check in checks:
        if (verdict := check(method, observed)) not in (None, NOT_CHECKED):
            return reason(str(verdict))
    return True


def _resume(method: Method[Any], observer: Observer) -> Record:
    """Train on from a checkpoint; joined rows were tried in the first training already."""
    observer.resume()
    shares = _verdict(method, observer, [shares_a_prefix]) if observer.causal else NOT_CAUSAL
    return {"resumes": _verdict(method, observer, [resumes]), "shared-prefix": shares}


def _checkpointing(method: Method[Any], observer: Observer) -> Record:
    usual = observer.observed.logits["trained"]
    variant = checkpointing(observer.trial, observer.base, observer.settings, usual)
    return {"checkpointing": reason(variant_problem(observer.observed.quantization, variant))}


def _distributed(method: Method[Any], observer: Observer) -> Record:
    trial, base, settings = observer.trial, observer.base, observer.settings
    return {
        name: reason(distributed_problem(trial, base, settings, sharding))
        for name, sharding in (("ddp", "none"), ("fsdp2", "fsdp2"))
    }


def _zero(method: Method[Any], observer: Observer) -> Record:
    """Divide by DeepSpeed, where it is installed; where it is not, nothing is known of it."""
    if not find_spec("deepspeed"):
        return {}
    trial, base, settings = observer.trial, observer.base, observer.settings
    return {name: reason(distributed_problem(trial, base, settings, name)) for name in ZERO_STAGES}


def _offload(method: Method[Any], observer: Observer) -> Record:
    return {"offload": reason(offload_problem(observer.trial, observer.base, observer.settings))}


def _compile(method: Method[Any], observer: Observer) -> Record:
    # In a process of its own, because tensors without content remain of a compilation in classes of the method.
    (answer,) = in_processes([partial(_compile_here, observer)], 1, time_limit=SECONDS)
    if isinstance(answer, Exception):
        raise answer
    return dict(answer)


def _compile_here(observer: Observer) -> Record:
    with observer.base.borrow() as model:
        wrapped = observer.trial.wrap(model)
        observer.trial.train(wrapped, observer.settings, "compile")
        whole = compile_problem(wrapped, observer.rows, whole=True)
        broken = whole and compile_problem(wrapped, observer.rows, whole=False)
    return {"compile": reason(broken), "compile-whole": reason(whole)}


def _peft(method: Method[Any], observer: Observer) -> Record:
    """Load the adapter with PEFT alone, and compare its answers with those of the method on an unquantized base."""
    from adapterzoo.conformance.host import peft_logits
    from adapterzoo.conformance.measure import logits

    if not observer.causal:
        return {"peft": NOT_CAUSAL}
    base, trial = tiny_base(observer.observed.architecture, "none"), observer.trial
    with base.borrow() as model:
        expected = logits(_load(method, observer, model), observer.rows, 1)
    found = peft_logits(model_folder(trial.architecture), trial.adapter, [row.tokens for row in observer.rows.test])
    gap, allowed = (found - expected).abs().max().item(), MERGE_TOLERANCE * expected.std().item()
    return {"peft": gap <= allowed or f"its logits in plain PEFT differ by {gap:.1g} (allowed: {allowed:.1g})"}


def _merge(method: Method[Any], observer: Observer) -> Record:
    """Load the adapter on an unquantized base, merge it, compare the answers, and look at the changes of weights."""
    from adapterzoo.adapters.exporting import MAX_WHOLE_RANK
    from adapterzoo.adapters.updates import NotLoraError, Updates, deltas_of
    from adapterzoo.conformance.measure import logits

    base = tiny_base(observer.observed.architecture, "none", task_type=observer.context.task_type)
    measured: list[Any] = []

    def merge(model: Any) -> Any:
        wrapped = _load(method, observer, model)
        measured.append(logits(wrapped, observer.rows))
        merged = method.merge(wrapped)
        measured.append(logits(merged, observer.rows))
        return merged

    try:
        with base.borrow() as model:
            measured.append(logits(model, observer.rows))
            updates = Updates.of([deltas_of(model, merge)])
        rank = updates.whole_rank()
        whole: bool | str = rank <= MAX_WHOLE_RANK or f"its updates have the rank {rank}, more than {MAX_WHOLE_RANK}"
        export: bool | str = True
    except NotLoraError as error:
        export = whole = reason(f"it {error}")
    finally:
        base.invalidate()
    untouched, loaded, merged = measured
    gap, effect = (merged - loaded).abs().max().item(), (loaded - untouched).abs().max().item()
    if not gap <= MERGE_TOLERANCE * effect:
        wrong = f"the merged logits differ by {gap:.1g}, and its effect is {effect:.1g}"
        return dict.fromkeys(("merges", "export", "export-whole"), wrong)
    return {"merges": True, "export": export, "export-whole": whole}


def _load(method: Method[Any], observer: Observer, model: Any) -> Any:
    """Put the saved adapter on a base model without quantization."""
    trial = observer.trial
    load_head(model, trial.adapter)
    context = replace(trial.context, quantization="none", batches=tuple)
    return load_adapter(method, model, trial.adapter, trial.options, context)
