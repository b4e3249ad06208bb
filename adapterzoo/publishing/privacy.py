"""Keep what is private out of what is published: local paths, logins, and the names of this machine."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import fields, is_dataclass, replace
from html import escape
from pathlib import Path, PureWindowsPath
from typing import Any

from adapterzoo.errors import UserError

# An absolute path inside a text, on any system; what comes after https: is none.
PATH = re.compile(
    r"(?<![\w:/.~<])(?:file://)?"
    r"(?:(?:~[\w.-]*)?(?:/[^\s/'\"`,;:()<>|*?]+){2,}/?|(?:[A-Za-z]:|\\\\[\w.-]+)(?:[\\/]+[^\s\\/'\"`,;:()<>|*?]+)+)"
)
# Facts of the environment that may hold the name of a machine: the system's kernel can be called anything.
MACHINE_FACTS = frozenset({"platform"})
MIN_SECRET_LENGTH = 8
# Files that come from the base model; their words are not looked through for paths.
VOCABULARIES = frozenset({"tokenizer.json", "vocab.json", "merges.txt", "vocab.txt"})
BINARY = (".safetensors", ".model")


class Scrubber:
    """Replaces private texts in everything that is published."""

    def __init__(self, names: dict[str, str]) -> None:
        """Remember what to replace.

        Args:
            names: local path -> the name that is published in its place.
        """
        home = str(Path.home())
        known = {**names, **({home: "~"} if len(home) > 1 else {})}
        self._known = dict(sorted(known.items(), key=lambda item: -len(item[0])))

    def plain(self, text: str) -> str:
        """Return a text without the known paths; a text that is nothing but a path becomes the name of its file."""
        for private, name in self._known.items():
            text = text.replace(private, name)
        alone = "\n" not in text and (Path(text).is_absolute() or PureWindowsPath(text).is_absolute())
        return PureWindowsPath(text).name if alone else text

    def settings(self, value: Any) -> Any:
        """Return plain data without known paths. Other texts stay as they are, because they decide what is learned."""
        if isinstance(value, dict):
            return {key: self.settings(item) for key, item in value.items()}
        if isinstance(value, list):
            return [self.settings(item) for item in value]
        return self.plain(value) if isinstance(value, str) else value

    def message(self, text: str) -> str:
        """Return a message, such as an error, without any path: only the names of files are kept."""
        return PATH.sub(lambda match: PureWindowsPath(match[0]).name, self.plain(text))

    def value(self, value: Any) -> Any:
        """Return a copy of a value in which all texts are messages without paths; dataclasses keep their type."""
        if isinstance(value, str):
            return self.message(value)
        if isinstance(value, dict):
            return {self.value(key): self.value(item) for key, item in value.items() if key not in MACHINE_FACTS}
        if type(value) in (list, tuple, set):
            return type(value)(self.value(item) for item in value)
        if is_dataclass(value) and not isinstance(value, type):
            return replace(value, **{field.name: self.value(getattr(value, field.name)) for field in fields(value)})
        return value


def secrets() -> list[str]:
    """Return the logins of the hub that this machine has."""
    from huggingface_hub import constants, get_token

    found = {get_token(), *(os.environ.get(name) for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))}
    stored = Path(constants.HF_STORED_TOKENS_PATH)
    if stored.is_file():
        found |= set(re.findall(r"hf_token\s*=\s*(\S+)", stored.read_text(encoding="utf-8", errors="replace")))
    return sorted(secret for secret in found if secret and len(secret) >= MIN_SECRET_LENGTH)


def refuse_private(folder: Path, paths: Iterable[str], user_data: Iterable[Path] = ()) -> None:
    """Raise UserError if a file in a folder that is to be published holds a login or a local path.

    Args:
        folder: the folder.
        paths: local paths that must not be in it.
        user_data: files with data rows, which are published on the user's word; their words are not looked through
            for paths.
    """
    logins = secrets()
    private = sorted(path for path in {*paths, f"{Path.home()}/"} if len(path) > 2)
    exempt = set(user_data)
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        content = file.read_bytes() if file.suffix not in BINARY else _header(file)
        name = file.relative_to(folder).as_posix()
        if any(form in content for login in logins for form in _forms(login)):
            raise UserError.at(name, "would hold a login of the hub.", "Remove it from the recipe.")
        if file.name in VOCABULARIES or file in exempt:
            continue
        if found := next((path for path in private if any(form in content for form in _forms(path))), None):
            hint = "Write the recipe without it, and run it again."
            raise UserError.at(name, f"would hold the local path {found}, which is private.", hint)


def _header(file: Path) -> bytes:
    """Return the header of a safetensors file, which is the only text in it; empty for other binary files."""
    if file.suffix != ".safetensors":
        return b""
    with file.open("rb") as stream:
        return stream.read(min(int.from_bytes(stream.read(8), "little"), 2**27))


def _forms(text: str) -> set[bytes]:
    """Return how a text is written in plain files, in JSON and in HTML."""
    return {form.encode() for form in (text, json.dumps(text)[1:-1], escape(text))}
