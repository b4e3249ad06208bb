"""Find the tasks of all installed packages through the entry-point group ``adapterzoo``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from importlib import metadata
from typing import Any

from adapterzoo import hookspecs
from adapterzoo.entry_points import PluginRegistry, check_summary
from adapterzoo.errors import PluginError
from adapterzoo.formats import Format
from adapterzoo.methods.contract import TASK_TYPES, Options
from adapterzoo.tasks.contract import Task

NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")


class Tasks(PluginRegistry[Task[Any]]):
    """The tasks by name, and the broken plugins whose tasks are left out."""

    kind = "task"

    def __init__(self, entry_points: Iterable[metadata.EntryPoint]) -> None:
        super().__init__()
        self.load(entry_points, "adapterzoo_tasks", _verify)


@cache
def tasks() -> Tasks:
    """Return the installed tasks; they are searched for only once."""
    return Tasks(metadata.entry_points(group=hookspecs.PROJECT))


def _verify(task: object) -> None:
    """Raise PluginError if an object is not a task, and name the attribute that is wrong."""
    if not isinstance(task, Task):
        raise PluginError(f"it returned {task!r:.100}, which is not an adapterzoo.Task")
    kind = type(task).__name__
    for attribute in ("name", "summary", "model_class", "task_type"):
        if not isinstance(value := getattr(task, attribute, None), str) or not value.strip():
            raise PluginError(f"{kind}.{attribute} is {value!r}, not text")
    check_summary(kind, task.summary)
    if not NAME.fullmatch(task.name):
        raise PluginError(f"{kind}.name is {task.name!r}: only lower-case letters, digits, '_' and '-'")
    if task.task_type not in TASK_TYPES:
        raise PluginError(f"{kind}.task_type is {task.task_type!r}; choose from {', '.join(TASK_TYPES)}")
    formats = getattr(task, "formats", None)
    if not isinstance(formats, dict) or not formats or not all(isinstance(form, Format) for form in formats.values()):
        raise PluginError(f"{kind}.formats is {formats!r:.100}, not a dict of formats by name")
    if not (isinstance(options := getattr(task, "options", None), type) and issubclass(options, Options)):
        raise PluginError(f"{kind}.options is not a subclass of adapterzoo.Options")
    if required := [name for name, field in options.model_fields.items() if field.is_required()]:
        raise PluginError(f"{kind}.options has no default for {', '.join(required)}")
    for attribute in ("metrics", "measured"):
        names = getattr(task, attribute, None)
        if not isinstance(names, tuple | list) or not all(isinstance(name, str) for name in names):
            raise PluginError(f"{kind}.{attribute} is {names!r:.100}, not a tuple of names of metrics")
    if not task.metrics:
        raise PluginError(f"{kind}.metrics is empty: a table needs a metric to be ordered by")
