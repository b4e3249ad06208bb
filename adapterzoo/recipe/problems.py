"""Find problems in a recipe's methods, metrics and tuning that a check of types cannot find."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from adapterzoo.errors import Problem, did_you_mean
from adapterzoo.methods.contract import ENTRY_KEYS, RESERVED_LABEL, TASK_TYPES
from adapterzoo.methods.registry import Registry
from adapterzoo.methods.trainable import why_not_trainable
from adapterzoo.metrics.measured import MEASURED_NAMES
from adapterzoo.metrics.registry import compares_answers, metrics
from adapterzoo.quantizations.contract import NONE
from adapterzoo.quantizations.registry import quantizations
from adapterzoo.recipe.document import Document, section
from adapterzoo.recipe.schema import Range
from adapterzoo.recipe.schema_problems import DocumentPart, problems_of
from adapterzoo.recipe.yaml_text import Location
from adapterzoo.results.identity import DEFAULT_TASK
from adapterzoo.tasks.contract import TASK_KEYS, Task
from adapterzoo.tasks.registry import tasks

Entries = Sequence[Mapping[str, Any]]
REMOVE_ONE = "Leave one of them out."


def metric_problems(document: Document) -> list[Problem]:
    """Return a problem for each metric that does not exist, or that the task does not have."""
    names = section(document, "evaluate").get("metrics")
    task, _ = _task(document)
    known, problems = metrics(), []
    for index, name in enumerate(names if isinstance(names, list) else []):
        if not isinstance(name, str):
            continue
        where = document.where(("evaluate", "metrics", index))
        if name not in known and name not in MEASURED_NAMES:
            problems.append(Problem(where, f"unknown metric '{name}'.", known.hint(name)))
        elif task and name not in task.measured and not (task.compares_answers and compares_answers(name)):
            more = ", and every metric that compares answers" if task.compares_answers else ""
            hint = f"It has: {', '.join(task.measured)}{more}."
            problems.append(Problem(where, f"the task {task.name} has no '{name}'.", hint))
    return problems


def quantization_problems(document: Document) -> list[Problem]:
    """Return a problem if the recipe's quantization does not exist, or cannot be used here."""
    name = section(document, "model").get("quantization", NONE)
    if not isinstance(name, str):
        return []  # The check of the schema reports it.
    where, known = document.where(("model", "quantization")), quantizations()
    if name not in known:
        choices = ", ".join(choice for choice in known if not known[choice].only_checkpoints)
        hint = known.hint(name)
        what = f"'model.quantization' is {name!r}; it can be {choices}."
        return [Problem(where, what, "" if hint.startswith("Choose") else hint)]
    if reason := known[name].why_not_here():
        return [Problem(where, f"the quantization {name} {reason.what}", reason.hint)]
    return []


def task_problems(document: Document) -> list[Problem]:
    """Return the problems of ``task``, and of the keys that do not suit the task."""
    task, problems = _task(document)
    if task is None:
        return problems
    data, evaluate = section(document, "data"), section(document, "evaluate")
    for key in TASK_KEYS:
        if key in data and key not in task.uses:
            hint = "Leave it out."
            problems.append(Problem(document.where(("data", key)), f"the task {task.name} does not use '{key}'.", hint))
    if not task.causal:
        for key in ("general_text", "shots"):
            if evaluate.get(key):
                what = f"'{key}' needs the task of a causal language model that learns texts, and not {task.name}."
                problems.append(Problem(document.where(("evaluate", key)), what, "Leave it out."))
    return problems + _format_problems(document, task)


def _task(document: Document) -> tuple[Task[Any] | None, list[Problem]]:
    """Return the recipe's task, or None if it is not known, and the problems of its name and options."""
    entry = document.data.get("task", DEFAULT_TASK)
    settings = {"name": entry} if isinstance(entry, str) else entry
    known = tasks()
    if not isinstance(settings, dict) or not isinstance(name := settings.get("name"), str):
        return None, []  # The check of the schema reports it.
    where = document.where(("task",))
    if name not in known:
        return None, [Problem(where, f"unknown task '{name}'.", known.hint(name))]
    task = known[name]
    try:
        task.options(**{key: value for key, value in settings.items() if key != "name"})
    except ValidationError as error:
        return task, problems_of(error, DocumentPart(document, task.options, ("task",), ["name"]))
    except Exception as error:  # A validator of a third-party package may raise anything.
        what = f"the options of {name} cannot be checked: {type(error).__name__}: {error}."
        return task, [Problem(where, what, f"This is a bug in {known.package(name)}.")]
    return task, []


def _format_problems(document: Document, task: Task[Any]) -> list[Problem]:
    """Return a problem if the task does not have the data's format, or the format does not have the data's columns."""
    data = section(document, "data")
    name, columns = data.get("format", "auto"), data.get("columns", {})
    if not isinstance(name, str) or not isinstance(columns, dict):
        return []  # The check of the schema reports it.
    if name != "auto" and name not in task.formats:
        hint = did_you_mean(name, ["auto", *task.formats])
        return [Problem(document.where(("data", "format")), f"'data.format' is {name!r}.", hint)]
    # If the format is auto, it is found out from the rows later. Until then, columns of any format are allowed.
    formats = [task.formats[name]] if name in task.formats else list(task.formats.values())
    known = list(dict.fromkeys(column for form in formats for column in (*form.columns, *form.optional)))
    owner = f"the format {name}" if len(formats) == 1 else "any format"
    return [
        Problem(
            document.where(("data", "columns", column)),
            f"'data.columns.{column}' is not a column of {owner}.",
            did_you_mean(str(column), known),
        )
        for column in columns
        if column not in known
    ]


def tune_problems(document: Document, zoo: Registry) -> list[Problem]:
    """Return a problem for each tuned key that no method has, that is set elsewhere too, or that has a wrong value."""
    entries = _known_entries(document, zoo)
    problems = []
    for key, value in section(document, "tune").items():
        try:
            values = Range.model_validate(value).values_to_check
        except ValidationError:
            continue  # The check of the schema reports it.
        find = _rate_problems if key == "learning_rate" else _option_problems
        where = document.where(("tune", key))
        problems += [Problem(where, what, hint) for what, hint in find(document, zoo, entries, str(key), values)]
    return problems


def _known_entries(document: Document, zoo: Registry) -> Entries:
    """Return the entries of ``methods`` as mappings, without those whose method is unknown."""
    listed = document.data.get("methods")
    listed = listed if isinstance(listed, list) else []
    entries = [{"name": entry} if isinstance(entry, str) else entry for entry in listed]
    return [
        entry
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry["name"] in zoo
    ]


def _rate_problems(
    document: Document, zoo: Registry, entries: Entries, key: str, values: Sequence[Any]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a tuned learning rate, each with its hint."""
    if any(isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0 for value in values):
        yield "a learning rate is a number above 0.", ""
    set_for = [str(entry["name"]) for entry in entries if entry.get(key, "auto") != "auto"]
    if section(document, "train").get(key, "auto") != "auto":
        set_for.append("all methods, in train")
    if set_for:
        yield f"the learning rate is also set for {set_for[0]}.", REMOVE_ONE


def _option_problems(
    document: Document, zoo: Registry, entries: Entries, key: str, values: Sequence[Any]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a tuned option, each with its hint."""
    by_label = {_label(entry): entry for entry in entries if not zoo[entry["name"]].unavailable}
    methods = {label: zoo[entry["name"]] for label, entry in by_label.items()}
    with_option = {label: method for label, method in methods.items() if key in method.options.model_fields}
    if methods and not with_option:
        options = {option for method in methods.values() for option in method.options.model_fields}
        yield f"no method here has an option '{key}'.", did_you_mean(key, {*options, "learning_rate"})
    set_for = [_label(entry) for entry in entries if key in entry]
    if set_for:
        yield f"'{key}' is also set for {set_for[0]}.", REMOVE_ONE
    for label, method in with_option.items():
        if key == method.size_option and document.data.get("budget"):
            yield f"'{key}' of {label} is set by the budget.", REMOVE_ONE
        settings = {option: value for option, value in by_label[label].items() if option not in ENTRY_KEYS}
        try:
            method.options(**settings)
        except Exception:  # method_problems reports it.
            continue
        for value in values:
            try:
                method.options(**{**settings, key: value})
            except ValidationError as error:
                yield f"{label} refuses {key} = {value!r}: {error.errors()[0]['msg']}.", ""
                break
            except Exception as error:  # A validator of a third-party package may raise anything.
                yield f"{label} refuses {key} = {value!r}: {type(error).__name__}: {error}.", ""
                break


def _label(entry: Mapping[str, Any]) -> str:
    return str(entry.get("label", entry["name"]))


def method_problems(document: Document, zoo: Registry) -> list[Problem]:
    """Return the problems of ``methods``: unknown names and options, labels given twice, wrong quantization."""
    quantization = section(document, "model").get("quantization", NONE)
    entries = document.data.get("methods")
    task, _ = _task(document)
    task_type = task.task_type if task else TASK_TYPES[0]
    problems: list[Problem] = []
    labels: dict[str, str] = {}
    """label without case -> label: some file systems do not distinguish them"""
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        location: Location = ("methods", index)
        where = document.where(location)
        settings = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
            names = [key for key in settings if key in zoo] if isinstance(settings, dict) else []
            if len(names) == 1:
                what = "a method's options go beside its name."
                problems.append(Problem(where, what, f"For example: {{name: {names[0]}, label: mine}}."))
            continue  # The check of the schema reports anything else.
        name = settings["name"]
        label = _label(settings)
        if taken := labels.get(label.casefold()):
            twice = f"the label '{label}' is used twice"
            what = twice if taken == label else f"the labels '{taken}' and '{label}' differ only in case"
            problems.append(Problem(where, f"{what}.", "Give one of the two another label."))
        if RESERVED_LABEL.fullmatch(label):
            problems.append(
                Problem(where, f"the label '{label}' is taken by the untouched base or by a file.", "Choose another.")
            )
        labels[label.casefold()] = label
        if name not in zoo:
            problems.append(Problem(document.where((*location, "name")), f"unknown method '{name}'.", zoo.hint(name)))
            continue
        method = zoo[name]
        if reason := why_not_trainable(zoo, name, str(quantization), task_type):
            problems.append(Problem(where, f"{name} {reason[0]}", reason[1]))
            if method.unavailable:
                continue
        if (needed := method.requires_quantization) and (missing := quantizations().why_not(needed)):
            problems.append(
                Problem(where, f"{name} needs the quantization {needed}, which {missing.what}", missing.hint)
            )
        if document.data.get("budget") and method.size_option and method.size_option in settings:
            what = f"'{method.size_option}' is set here and by the budget."
            problems.append(Problem(document.where((*location, method.size_option)), what, REMOVE_ONE))
        try:
            method.options(**{key: value for key, value in settings.items() if key not in ENTRY_KEYS})
        except ValidationError as error:
            problems += problems_of(error, DocumentPart(document, method.options, location, sorted(ENTRY_KEYS)))
        except Exception as error:  # A validator of a third-party package may raise anything.
            what = f"the options of {name} cannot be checked: {type(error).__name__}: {error}."
            problems.append(Problem(where, what, f"This is a bug in {zoo.package(name)}."))
    return problems
