"""Say where a published adapter comes from: its base model, its data and its recipe, without private facts."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from adapterzoo.adapters.finding import Adapter, Say
from adapterzoo.data.split import fingerprint
from adapterzoo.data_row import SPLIT_NAMES
from adapterzoo.errors import UserError
from adapterzoo.model.bundled import BUNDLED
from adapterzoo.prepare.examples import read_data
from adapterzoo.publishing.privacy import Scrubber
from adapterzoo.recipe import document
from adapterzoo.recipe.files import is_hub_id
from adapterzoo.recipe.schema import Recipe
from adapterzoo.results.store import RECIPE

WIDTH = 120


@dataclass(frozen=True)
class BaseModel:
    """The base model, as a card names it."""

    id: str | None
    """hub id; None if the model is a folder and the user gave no id"""
    name: str
    """what a reader sees"""
    revision: str | None = None
    note: str = ""
    """a sentence about it; empty if there is none"""


@dataclass(frozen=True)
class DataFile:
    """A file or dataset that the rows were read from."""

    name: str
    """name of the file, or hub id"""
    sha256: str
    """empty if it is not known"""


@dataclass(frozen=True)
class Data:
    """The rows of a run."""

    files: list[DataFile]
    hub_ids: list[str]
    rows: dict[str, int]
    """split -> number of rows; empty if the rows are not there any more"""
    fingerprints: dict[str, str]
    """split -> hash of its rows"""
    note: str
    """why the rows could not be read again; empty if they were"""

    @property
    def name(self) -> str:
        """Return one name for all of it."""
        return ", ".join(file.name for file in self.files) or "data"


def base_model(recipe: Recipe, base_id: str | None) -> BaseModel:
    """Return how a card names the base model of a recipe.

    Args:
        recipe: the recipe.
        base_id: hub id that the user gave; None if none was given.
    """
    name, revision = recipe.model.name, recipe.model.revision
    if base_id is not None:
        return BaseModel(base_id, base_id, revision if name == base_id else None)
    if name in BUNDLED:
        bundle = BUNDLED[name]
        note = (
            f"It was trained on {bundle.description}, as the Python package {bundle.requirement} has it "
            f"(licence: {bundle.licence}). The weights of {bundle.hub_id} differ from these by that quantization."
        )
        return BaseModel(bundle.hub_id, bundle.hub_id, None, note)
    if is_hub_id(name) and not Path(name).exists():
        return BaseModel(name, name, revision)
    return BaseModel(None, Path(name).name)


def private_names(recipe: Recipe, base: BaseModel, folder: Path) -> dict[str, str]:
    """Return local path -> the name that is published in its place, for all paths that a recipe names."""
    from adapterzoo.files import cache_folder

    paths = [recipe.data.chat_template, recipe.evaluate.general_text or "", *_sources(recipe)]
    named = {path: Path(path).name for path in paths if Path(path).is_absolute()}
    if Path(recipe.model.name).is_absolute():
        named[recipe.model.name] = base.id or base.name
    places = {Path(path).parent for path in named} | {folder.resolve().parent, cache_folder().absolute()}
    named |= {f"{place}/": "" for place in places if len(place.parts) > 2}  # /tmp/ alone says nothing of anybody
    return named | {str(folder.resolve()): folder.resolve().name}


def _sources(recipe: Recipe) -> Iterator[str]:
    """Yield the files, folders and hub ids that the rows of a recipe come from."""
    yield from recipe.data.sources
    for name in SPLIT_NAMES:
        value = getattr(recipe.data.split, name)
        if isinstance(value, list):
            yield from value


def describe_data(adapter: Adapter, say: Say) -> Data:
    """Return what is said of the rows of an adapter's run. Files are only hashed if they still have the same rows."""
    recipe, known = adapter.recipe, adapter.result.fingerprints
    sources = list(dict.fromkeys(_sources(recipe)))
    hub_ids = [source for source in sources if is_hub_id(source) and not Path(source).exists()]
    stored = {name: digest for name in SPLIT_NAMES if (digest := known.get(name)) is not None}
    rows, note = dict[str, int](), ""
    if not hub_ids:  # the rows of a hub are named by its id and revision
        rows, note = _read_again(recipe, known)
        if note:
            say(f"the card does not have the hashes of the data files: {note}")
    files = [DataFile(Path(source).name, "" if note else _sha256(Path(source))) for source in sources]
    names = [DataFile(f"{id}{_revision(recipe)}", "") for id in hub_ids]
    return Data(names if hub_ids else files, hub_ids, rows, stored, note)


def _revision(recipe: Recipe) -> str:
    return f" ({recipe.data.revision})" if recipe.data.revision else ""


def _read_again(recipe: Recipe, known: Mapping[str, str | None]) -> tuple[dict[str, int], str]:
    """Return the number of rows of each split, and why it is not known; one of them is empty."""
    try:
        _, splits = read_data(recipe, lambda message: None)
    except UserError:
        return {}, "they cannot be read any more."
    for name in SPLIT_NAMES:
        if known.get(name) not in (None, fingerprint([getattr(splits, name)])):
            return {}, "their rows have changed since the run."
    return {name: len(getattr(splits, name)) for name in SPLIT_NAMES}, ""


def _sha256(path: Path) -> str:
    """Return the SHA-256 of a file; empty for a folder."""
    if not path.is_file():
        return ""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def public_recipe(folder: Path, scrubber: Scrubber) -> str:
    """Return the recipe of an output folder as YAML, in which every local path is the name of its file."""
    from ruamel.yaml import YAML

    stream = StringIO()
    dumper = YAML()
    dumper.default_flow_style = False
    dumper.width = WIDTH
    dumper.dump(scrubber.settings(document.read(folder / RECIPE).data), stream)
    return stream.getvalue()
