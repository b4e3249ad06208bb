"""What is wrong with a recipe's methods, metrics and tuning, beyond the types of its keys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from adapterzoo.errors import Problem, did_you_mean
from adapterzoo.methods.contract import ENTRY_KEYS, RESERVED_LABEL, why_not_trainable
from adapterzoo.methods.registry import Registry
from adapterzoo.metrics.contract import RESERVED
from adapterzoo.metrics.registry import metrics
from adapterzoo.recipe.document import Document, Location, section
from adapterzoo.recipe.schema import Range
from adapterzoo.recipe.schema_problems import Part, problems_of


def metric_problems(source: Document) -> list[Problem]:
    """Metrics that are not there."""
    names = section(source, "evaluate").get("metrics")
    known = metrics()
    return [
        Problem(source.where(("evaluate", "metrics", index)), f"unknown metric '{name}'.", known.hint(name))
        for index, name in enumerate(names if isinstance(names, list) else [])
        if isinstance(name, str) and name not in known and name not in RESERVED
    ]


def tune_problems(source: Document, zoo: Registry) -> list[Problem]:
    """What is tuned that no method has, that is set elsewhere too, or that an option refuses."""
    entries = source.data.get("methods")
    named = [{"name": one} if isinstance(one, str) else one for one in entries] if isinstance(entries, list) else []
    known = [one for one in named if isinstance(one, dict) and isinstance(one.get("name"), str) and one["name"] in zoo]
    problems = []
    for key, value in section(source, "tune").items():
        try:
            tried = Range.model_validate(value).tried
        except ValidationError:
            continue  # said by the recipe's own check
        found = _rate_problems if key == "learning_rate" else _option_problems
        where = source.where(("tune", key))
        problems += [Problem(where, what, hint) for what, hint in found(source, zoo, known, str(key), tried)]
    return problems


Entries = Sequence[Mapping[str, Any]]
TWICE = "Leave one of them out."


def _rate_problems(
    source: Document, zoo: Registry, entries: Entries, key: str, tried: Sequence[Any]
) -> Iterator[tuple[str, str]]:
    if any(isinstance(one, bool) or not isinstance(one, (int, float)) or one <= 0 for one in tried):
        yield "a learning rate is a number above 0.", ""
    fixed = [str(one["name"]) for one in entries if one.get(key, "auto") != "auto"]
    if section(source, "train").get(key, "auto") != "auto":
        fixed.append("all methods, in train")
    if fixed:
        yield f"the learning rate is also set for {fixed[0]}.", TWICE


def _option_problems(
    source: Document, zoo: Registry, entries: Entries, key: str, tried: Sequence[Any]
) -> Iterator[tuple[str, str]]:
    trained = {str(one.get("label", one["name"])): one for one in entries if not zoo[one["name"]].unavailable}
    methods = {label: zoo[one["name"]] for label, one in trained.items()}
    having = {label: method for label, method in methods.items() if key in method.options.model_fields}
    if methods and not having:
        options = {option for method in methods.values() for option in method.options.model_fields}
        yield f"no method here has an option '{key}'.", did_you_mean(key, {*options, "learning_rate"})
    set_too = [str(one.get("label", one["name"])) for one in entries if key in one]
    if set_too:
        yield f"'{key}' is also set for {set_too[0]}.", TWICE
    for label, method in having.items():
        if key == method.size_option and source.data.get("budget"):
            yield f"'{key}' of {label} is set by the budget.", TWICE
        own = {option: value for option, value in trained[label].items() if option not in ENTRY_KEYS}
        try:
            method.options(**own)
        except Exception:  # said of the method itself
            continue
        for one in tried:
            try:
                method.options(**{**own, key: one})
            except ValidationError as error:
                yield f"{label} refuses {key} = {one!r}: {error.errors()[0]['msg']}.", ""
                break
            except Exception as error:  # a validator of a stranger's options may raise anything
                yield f"{label} refuses {key} = {one!r}: {type(error).__name__}: {error}.", ""
                break


def method_problems(source: Document, zoo: Registry) -> list[Problem]:
    """Unknown methods and options, labels given twice, and methods on a base that they cannot train on."""
    model = source.data.get("model")
    quantization = model.get("quantization", "none") if isinstance(model, dict) else "none"
    entries = source.data.get("methods")
    problems: list[Problem] = []
    labels: set[str] = set()
    for index, entry in enumerate(entries if isinstance(entries, list) else []):
        location: Location = ("methods", index)
        settings = {"name": entry} if isinstance(entry, str) else entry
        if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
            names = [key for key in settings if key in zoo] if isinstance(settings, dict) else []
            if len(names) == 1:
                what = "a method's options stand beside its name."
                problems.append(Problem(source.where(location), what, f"Like {{name: {names[0]}, label: mine}}."))
            continue  # the rest is said by the recipe's own check
        name = settings["name"]
        label = str(settings.get("label", name))
        if label in labels:
            problems.append(
                Problem(source.where(location), f"'{label}' is there twice.", "Give one of them a label of its own.")
            )
        if RESERVED_LABEL.fullmatch(label):
            problems.append(
                Problem(source.where(location), f"the label '{label}' is taken: by the untouched base, or a file.")
            )
        labels.add(label)
        if name not in zoo:
            problems.append(Problem(source.where((*location, "name")), f"unknown method '{name}'.", zoo.hint(name)))
            continue
        method = zoo[name]
        if found := why_not_trainable(method, quantization):
            problems.append(Problem(source.where(location), f"{name} {found[0]}", found[1]))
            if method.unavailable:
                continue
        if source.data.get("budget") and method.size_option and method.size_option in settings:
            what = f"'{method.size_option}' is set here, and by the budget."
            problems.append(Problem(source.where((*location, method.size_option)), what, "Leave one of them out."))
        try:
            method.options(**{key: value for key, value in settings.items() if key not in ENTRY_KEYS})
        except ValidationError as error:
            problems += problems_of(error, Part(source, method.options, location, sorted(ENTRY_KEYS)))
        except Exception as error:  # a validator of a stranger's options may raise anything
            what = f"the options of {name} cannot be checked: {type(error).__name__}: {error}."
            problems.append(Problem(source.where(location), what, f"That is a fault of {zoo.package(name)}."))
    return problems
