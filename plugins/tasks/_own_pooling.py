"""Read from a model's own files of sentence-transformers how it embeds a text."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from adapterzoo.errors import UserError

Mode = str | tuple[str, ...]
"""sentence-transformers' name of a pooling, or of several whose results are joined"""
MODULES = "modules.json"
"""file that lists the parts of a model"""
KNOWN_MODULES = ("Transformer", "Pooling", "Normalize")
READING, PROMPTS = "sentence_bert_config.json", "config_sentence_transformers.json"
CORRECT = "Correct it, or say in task.pooling how the model's outputs are pooled."
WITHOUT_IT = "Set task.pooling, to train the model without it."


class OwnPooling(NamedTuple):
    """The pooling that a model's own files name."""

    mode: Mode
    normalizes: bool
    """whether embeddings have the length 1"""


def own_pooling(config: Any, max_length: int) -> OwnPooling | None:
    """Return the pooling that a model's own files name; None if it has no such files.

    Args:
        config: the model's configuration, as transformers loads it.
        max_length: largest number of tokens of a text.

    Raises:
        UserError: a file cannot be read, or the model embeds a text in a way that this task does not have.
    """
    path = _path(config, MODULES)
    if path is None:
        return None
    try:
        modules = {module["type"].rpartition(".")[2]: module["path"] for module in _content(path)}
    except (KeyError, TypeError, AttributeError):
        raise UserError.at(path, "is no list of modules, each with its type and path.", CORRECT) from None
    reading, prompts = (_settings(config, name) for name in (READING, PROMPTS))
    prompt = (prompts.get("prompts") or {}).get(prompts.get("default_prompt_name"))
    if other := next((kind for kind in modules if kind not in KNOWN_MODULES), None):
        raise UserError.at(path, f"the model has a layer of type {other}, which this task cannot train.", WITHOUT_IT)
    if "message" in (reading.get("modality_config") or {}):
        what = "the model reads texts in its chat template, and this task gives it texts as they are."
        raise UserError.at(path, what, WITHOUT_IT)
    if prompt:
        what = f"the model reads every text with '{prompt}' in front, and this task gives it texts as they are."
        raise UserError.at(path, what, f"Write this in front of the texts of your data. {WITHOUT_IT}")
    if reading.get("do_lower_case"):
        raise UserError.at(
            path, "the model reads texts in lower case, and this task gives it texts as they are.", WITHOUT_IT
        )
    own_length = reading.get("max_seq_length")
    if isinstance(own_length, int) and own_length < max_length:
        what = f"the model's own files say that it reads {own_length} tokens of a text, and max_length is {max_length}."
        raise UserError.at("data.max_length", what, f"Set it to {own_length} or less. Or set task.pooling.")
    if "Pooling" not in modules:
        return None
    return OwnPooling(_mode(config, path, modules["Pooling"]), "Normalize" in modules)


def _mode(config: Any, path: str, folder: str) -> Mode:
    from sentence_transformers.sentence_transformer.modules import Pooling

    try:
        mode: Mode = Pooling.load(config._name_or_path, subfolder=folder, revision=_revision(config)).pooling_mode
    except Exception as error:  # a damaged file may raise any error
        raise UserError.at(path, f"the configuration of its pooling cannot be read: {error}.", CORRECT) from None
    return mode


def _settings(config: Any, name: str) -> dict[str, Any]:
    """Return the settings in one of a model's files; none if the model does not have it."""
    path = _path(config, name)
    found = {} if path is None else _content(path)
    return found if isinstance(found, dict) else {}


def _content(path: str) -> Any:
    """Return the content of a JSON file.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise UserError.at(path, f"cannot be read: {error}.", CORRECT) from None


def _path(config: Any, name: str) -> str | None:
    """Return the path of one of a model's files; None if the model does not have it."""
    from transformers.utils import cached_file

    path: str | None = cached_file(
        config._name_or_path,
        name,
        revision=_revision(config),
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return path


def _revision(config: Any) -> str | None:
    """Return the commit of a model of the hub; None if it is a folder."""
    return getattr(config, "_commit_hash", None)
