"""Write the folder of a repository with an adapter, or with its base model into which it was merged."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from adapterzoo.adapters.change import ScoreChange
from adapterzoo.adapters.finding import TRAIN_AGAIN, Adapter, Say, check_files
from adapterzoo.adapters.loading import require_causal
from adapterzoo.adapters.merging import Merger, check_mergeable
from adapterzoo.errors import UserError
from adapterzoo.files import write_atomically
from adapterzoo.methods.registry import registry
from adapterzoo.publishing.card import CardParts, model_card
from adapterzoo.publishing.origin import (
    BaseModel,
    base_model,
    describe_data,
    private_names,
    public_recipe,
)
from adapterzoo.publishing.privacy import VOCABULARIES, Scrubber, refuse_private
from adapterzoo.publishing.public_comparison import public_comparison
from adapterzoo.publishing.usage import usage_code
from adapterzoo.report.text import markdown

CARD = "README.md"
ADAPTER_CONFIG = "adapter_config.json"
# Files of adapters and tokenizers; an adapter's folder may have got others since it was trained.
SUFFIXES = (".safetensors", ".json", ".jinja", ".model", ".txt")


@dataclass(frozen=True)
class ModelSettings:
    """The user's settings for a repository with an adapter or a merged model."""

    repository: str
    """its id"""
    merged: bool = False
    licence: str | None = None
    """licence that the card names; None if it names none"""
    base_id: str | None = None
    """hub id of the base model; None if it is found by the recipe"""


def check_pushable(adapter: Adapter, *, merged: bool) -> None:
    """Raise UserError if nobody could load what would be published."""
    require_causal(adapter)
    if merged:
        check_mergeable(adapter)
        return
    method = registry()[adapter.result.method or ""]
    if method.loads_in_peft and (adapter.path / ADAPTER_CONFIG).is_file():
        return
    hint = "Give --merged." if method.mergeable_into else "Only adapterzoo loads it."
    what = f"plain PEFT does not load adapters of {method.name}, so nobody could use it."
    raise UserError.at(f"--method {adapter.result.label}", what, hint)


def write_model(adapter: Adapter, to: Path, settings: ModelSettings, say: Say) -> None:
    """Write the folder of a repository: weights, tokenizer and card, without private facts.

    Args:
        adapter: the adapter.
        to: the folder, which does not exist yet.
        settings: what the user decided.
        say: is called with a message before each step that takes long.

    Raises:
        UserError: the adapter is damaged or cannot be merged, or what would be published has something private in it.
    """
    check_files(adapter, say)
    base = base_model(adapter.recipe, settings.base_id)
    names = private_names(adapter.recipe, base, adapter.folder)
    changes: Sequence[ScoreChange] = ()
    if settings.merged:
        changes = Merger(say).merge(adapter, to)
    else:
        _copy(adapter, to, say)
    _clean_configurations(to, base, Scrubber(names))
    card = model_card(_parts(adapter, settings, base, changes, Scrubber(names), say))
    write_atomically(to / CARD, card)
    refuse_private(to, (path for path in names if Path(path).is_absolute()))


def _parts(
    adapter: Adapter,
    settings: ModelSettings,
    base: BaseModel,
    changes: Sequence[ScoreChange],
    scrubber: Scrubber,
    say: Say,
) -> CardParts:
    if base.id is None:
        say("the card names no base model, because it is a folder here: --base-id gives its hub id")
    if settings.licence is None:
        say("the card names no licence: --licence gives one")
    return CardParts(
        adapter=adapter,
        repository=settings.repository,
        base=base,
        data=describe_data(adapter, say),
        code=usage_code(adapter, settings.repository, base, merged=settings.merged),
        comparison=markdown(public_comparison(adapter.folder, scrubber)),
        recipe=public_recipe(adapter.folder, scrubber),
        licence=settings.licence,
        merged=settings.merged,
        changes=changes,
    )


def _copy(adapter: Adapter, to: Path, say: Say) -> None:
    """Copy the files that the run wrote into an adapter's folder; the card of PEFT is left out."""
    written = adapter.result.adapter_files
    for path in sorted(path for path in adapter.path.rglob("*") if path.is_file()):
        name = path.relative_to(adapter.path).as_posix()
        if name == CARD:
            continue
        if path.suffix not in SUFFIXES or (written and name not in written):
            say(f"{name} is no file of an adapter or tokenizer, so it is left out")
            continue
        (to / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to / name)


def _clean_configurations(folder: Path, base: BaseModel, scrubber: Scrubber) -> None:
    """Replace the local paths that libraries have written into configurations."""
    for path in sorted(path for path in folder.rglob("*.json") if path.name not in VOCABULARIES):
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError.at(path.name, "is not JSON.", TRAIN_AGAIN) from None
        after = scrubber.settings(before)
        if path.name == ADAPTER_CONFIG and isinstance(after, dict):
            after |= {"base_model_name_or_path": base.id, "revision": base.revision}
        if after != before:
            write_atomically(path, json.dumps(after, indent=2, ensure_ascii=False) + "\n")
