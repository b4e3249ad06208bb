"""Write a merged model of which only a part is in memory at a time, in the form in which transformers saves models."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from adapterzoo.errors import UserError
from adapterzoo.files import remove

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
"""transformers' names for the file of a model's weights, and for the list of its files if there are several"""


class MergedFiles:
    """The files of a merged model, which get its weights part by part."""

    def __init__(self, folder: Path) -> None:
        """Make a new folder, in the place of one that may be there."""
        remove(folder)
        folder.mkdir(parents=True)
        self.folder = folder
        self._parts: list[Path] = []

    def add(self, merged: Any) -> None:
        """Write those weights of a merged model that have content.

        Raises:
            UserError: the folder cannot be written.
        """
        self._parts.append(self.folder / f"part-{len(self._parts)}")
        weights = {name: tensor for name, tensor in merged.state_dict().items() if not tensor.is_meta}
        with self._writing():
            merged.save_pretrained(str(self._parts[-1]), state_dict=weights)

    def finish(self, tokenizer: Any) -> None:
        """Make one model of the parts, with its tokenizer.

        Raises:
            UserError: the folder cannot be written.
        """
        with self._writing():
            self._join()
            tokenizer.save_pretrained(str(self.folder))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn the errors of a ``with`` block that writes into a user's errors."""
        from safetensors import SafetensorError

        try:
            yield
        except (OSError, SafetensorError) as error:
            hint = "Free some disk space, or give another folder."
            raise UserError.at(f"--to {self.folder.parent}", f"cannot be written: {error}.", hint) from None

    def _join(self) -> None:
        from safetensors import safe_open

        files = [file for part in self._parts for file in sorted(part.glob("*.safetensors"))]
        places, total = dict[str, str](), 0
        for number, file in enumerate(files, start=1):
            name = WEIGHTS if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
            with safe_open(file, framework="np") as weights:
                places |= dict.fromkeys(weights.keys(), name)
            total += _bytes_of_weights(file)
            file.rename(self.folder / name)
        if len(files) > 1:
            index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(places.items()))}
            (self.folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        # All parts have the same other files: the configuration, and the code of a model that brings its own.
        for file in self._parts[0].iterdir():
            if file.name != INDEX:
                file.rename(self.folder / file.name)
        for part in self._parts:
            remove(part)


def _bytes_of_weights(file: Path) -> int:
    """Return the size of a safetensors file without its header, whose length the first eight bytes say."""
    with file.open("rb") as opened:
        return file.stat().st_size - 8 - int.from_bytes(opened.read(8), "little")
