"""Find the tasks of lm-eval, and describe what their scores depend on.

A task of lm-eval, or a group of them, is called a benchmark here, because the task of a recipe is something else.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from adapterzoo.digests import text_digest
from adapterzoo.errors import UserError, did_you_mean, failure_reason

LIBRARY = "lm_eval"
OLDEST = (0, 4, 13)  # earlier versions load their tasks in another way
INSTALL = "Run: pip install 'adapterzoo[lm-eval]'"
LIST = "This lists them all: lm-eval ls tasks."
# Keys of a task that say where its rows or its file are. The rows themselves are compared.
PLACES = ("dataset_path", "dataset_name", "dataset_kwargs", "metadata")


@dataclass(frozen=True)
class Asking:
    """The settings with which lm-eval asks."""

    limit: int | None = None
    """number of examples of each task; None for all"""
    num_fewshot: int | None = None
    """number of examples in each prompt; None for each task's own number"""
    chat_template: bool | None = None
    """whether prompts are written by the model's chat template; None for as in the training"""
    system_instruction: str | None = None
    """text before each question"""


AS_IN_THE_TRAINING = Asking()


@dataclass(frozen=True)
class Benchmark:
    """A task of lm-eval, or several that one name stands for."""

    name: str
    tasks: Mapping[str, Any]
    """name -> lm-eval's object of each task"""
    groups: Mapping[str, Any]
    """name -> lm-eval's object of each group of these tasks"""
    asking: Asking

    def settings(self) -> dict[str, Any]:
        """Return everything but its rows that its scores depend on, as plain data."""
        tasks = self.tasks.values()
        return {
            **asdict(self.asking),
            "task": self.name,
            "version": ", ".join(sorted({str(task.VERSION) for task in tasks})),
            "num_fewshot": ", ".join(sorted({str(task.get_config("num_fewshot")) for task in tasks})),
            "config": text_digest(" ".join(f"{name} {_config_digest(task)}" for name, task in self.tasks.items()))[:8],
        }

    def rows_digest(self) -> str:
        """Return the digest of the rows that are asked."""
        from lm_eval.utils import handle_non_serializable

        rows = [
            [name, json.dumps(row, default=handle_non_serializable, ensure_ascii=False)]
            for name, task in self.tasks.items()
            for _, row in task.doc_iterator(rank=0, limit=self.asking.limit, world_size=1)
        ]
        return text_digest(json.dumps(rows))

    def run(self, model: Any) -> Any:
        """Return what lm-eval measures with a model, which is one of lm-eval's; the answer of each example is in it.

        Nothing is cached: lm-eval's cache would answer for every adapter with the answers of the first.
        """
        import numpy as np
        import torch
        from lm_eval.defaults import DEFAULT_OTHER_SEED, DEFAULT_RANDOM_SEED
        from lm_eval.evaluator import evaluate

        # The seeds are those of lm_eval.simple_evaluate, which also looks for the versions of all packages and of git.
        random.seed(DEFAULT_RANDOM_SEED)
        np.random.seed(DEFAULT_OTHER_SEED)
        torch.manual_seed(DEFAULT_OTHER_SEED)
        for task in self.tasks.values():
            task.set_fewshot_seed(seed=DEFAULT_OTHER_SEED)
        with _without_progress_bars():
            return evaluate(
                model,
                {"tasks": dict(self.tasks), "groups": dict(self.groups)},
                limit=self.asking.limit,
                bootstrap_iters=0,
                system_instruction=self.asking.system_instruction,
                log_samples=True,
                apply_chat_template=self.asking.chat_template,
                fewshot_as_multiturn=True,
            )


def require_library() -> None:
    """Raise UserError if lm-eval is missing or too old; it is not imported, which takes seconds."""
    try:
        version = metadata.version(LIBRARY)
    except metadata.PackageNotFoundError:
        raise UserError.at("--tasks", "needs the package lm-eval.", INSTALL) from None
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers < OLDEST:
        what = f"needs lm-eval {'.'.join(map(str, OLDEST))} or newer, and {version} is here."
        raise UserError.at("--tasks", what, INSTALL)


def load_benchmarks(names: Sequence[str], include: Path | None, asking: Asking) -> list[Benchmark]:
    """Load tasks of lm-eval, with their rows.

    Args:
        names: names of tasks, groups or tags of lm-eval.
        include: folder with task files of the user's own.
        asking: how they are asked.

    Raises:
        UserError: a name is unknown, a task's rows cannot be read, or it needs more than a language model.
    """
    manager = _manager(names, include)
    for name in names:
        if name not in manager.task_index:
            guess = did_you_mean(name, manager.all_tasks)
            hint = guess if guess.startswith("Did you mean") else LIST
            raise UserError.at(f"--tasks {name}", "lm-eval has no such task.", hint)
    return [_load(manager, name, asking) for name in names]


def _manager(names: Sequence[str], include: Path | None) -> Any:
    """Return lm-eval's list of tasks; without its own tasks if all names are of the user's, because that takes long."""
    from lm_eval.tasks import TaskManager

    if include is not None:
        own = TaskManager(include_path=str(include), include_defaults=False)
        if set(names) <= set(own.all_subtasks):
            return own
    return TaskManager(include_path=None if include is None else str(include))


def _load(manager: Any, name: str, asking: Asking) -> Benchmark:
    """Load a task, or all tasks that a name stands for.

    Raises:
        UserError: see :func:`load_benchmarks`.
    """
    where = f"--tasks {name}"
    unsafe = UserError.at(
        where,
        "runs the code that a model writes, which is not done here.",
        "Merge the adapter, and run lm-eval itself where this is safe.",
    )
    if _declares_unsafe(manager, name):
        raise unsafe
    try:
        loaded = manager.load([name])
        benchmark = Benchmark(name, loaded["tasks"], loaded["groups"], asking)
        for task in benchmark.tasks.values():
            _set_fewshot(task, asking.num_fewshot)
            len(task.eval_docs)  # raises an error now if there are none
    except (Exception, SystemExit) as error:  # a task may bring code of its own, which may raise anything
        hint = ""
        if isinstance(error, OSError):
            hint = "If its rows are on a hub, load it once with a connection and without HF_HUB_OFFLINE."
        raise UserError.at(where, f"cannot be loaded: {failure_reason(error).rstrip('.')}.", hint) from None
    for task in benchmark.tasks.values():
        if getattr(task, "UNSAFE_CODE", False):
            raise unsafe
        if getattr(task, "MULTIMODAL", False):
            raise UserError.at(where, "asks about images or sound, which language models cannot read.")
    return benchmark


def _declares_unsafe(manager: Any, name: str) -> bool:
    """Tell whether the file of a task says that it runs code of models; the code beside the file is not run."""
    from lm_eval.tasks._yaml_loader import load_yaml

    path = manager.task_index[name].yaml_path
    try:
        return path is not None and bool(load_yaml(path, resolve_func=False, recursive=True).get("unsafe_code"))
    except Exception:  # loading the task says what is wrong with its file
        return False


def _set_fewshot(task: Any, number: int | None) -> None:
    """Set the number of examples in the prompts of a task, by the rules of ``lm_eval.simple_evaluate``."""
    own = task.get_config("num_fewshot")
    if own is None or (number is not None and own != 0):
        task.set_config(key="num_fewshot", value=number or 0)


def _config_digest(task: Any) -> str:
    """Return the digest of a task's configuration, without the places of its rows."""
    config = {name: value for name, value in task.dump_config().items() if name not in PLACES}
    return text_digest(json.dumps(config, sort_keys=True, default=_name))


def _name(value: Any) -> str:
    """Return the name of a function, or of the type of another object."""
    return str(getattr(value, "__qualname__", type(value).__qualname__))


@contextmanager
def _without_progress_bars() -> Iterator[None]:
    """Keep the progress bar of lm-eval's prompts away, which it always shows."""
    from lm_eval.api import task

    module: Any = task
    shown: Callable[..., Any] = module.tqdm
    module.tqdm = lambda rows, **_: rows
    try:
        yield
    finally:
        module.tqdm = shown
