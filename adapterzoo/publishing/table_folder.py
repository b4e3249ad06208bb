"""Write the folder of a dataset repository with a comparison: its rows, its page, and on request its predictions."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterzoo.adapters.finding import Say, stored_recipe
from adapterzoo.comparison.comparison import Comparison
from adapterzoo.errors import UserError
from adapterzoo.files import write_atomically
from adapterzoo.publishing.card import TAG, versions, with_metadata
from adapterzoo.publishing.markup import fenced, folded, table
from adapterzoo.publishing.model_folder import CARD
from adapterzoo.publishing.origin import base_model, private_names, public_recipe
from adapterzoo.publishing.privacy import Scrubber, refuse_private
from adapterzoo.publishing.public_comparison import public_comparison
from adapterzoo.recipe.schema import Recipe
from adapterzoo.report import page
from adapterzoo.report.text import json_text, markdown
from adapterzoo.results.intact import changed_records, read_lines
from adapterzoo.results.reading import read_results
from adapterzoo.results.store import PREDICTIONS
from adapterzoo.terminal import escape_markdown

ROWS = "rows.jsonl"  # JSON Lines as the predictions are: datasets reads all files of a repository in one way
PAGE = "comparison.html"
JSON = "comparison.json"
ANSWERS = "predictions"


@dataclass(frozen=True)
class TableSettings:
    """The user's settings for a repository with a comparison."""

    repository: str
    """its id"""
    licence: str | None = None
    """licence that the card names; None if it names none"""
    with_predictions: bool = False
    """whether the test rows and the answers to them are published too"""


def table_marker(recipe: Recipe) -> dict[str, Any]:
    """Return what the metadata of a card say about the repository, so that the next push knows it again."""
    return {"kind": "table", "name": recipe.name}


def write_table(run: Path, to: Path, settings: TableSettings, say: Say, *, trust_remote_code: bool = False) -> None:
    """Write the folder of a repository with the comparison of a run.

    Args:
        run: output folder of the run.
        to: the folder, which does not exist yet.
        settings: what the user decided.
        say: is called with messages about what the card leaves out.
        trust_remote_code: whether a recipe may ask for a model's own code; none is run here.

    Raises:
        UserError: there are no results, or predictions that are to be published are damaged.
    """
    recipe = stored_recipe(run, trust_remote_code)
    names = private_names(recipe, base_model(recipe, None), run)
    scrubber = Scrubber(names)
    comparison = public_comparison(run, scrubber)
    to.mkdir(parents=True)
    write_atomically(to / ROWS, _rows(comparison))
    write_atomically(to / JSON, json_text(comparison))
    write_atomically(to / PAGE, page.html(comparison, scrubber.plain, with_answers=settings.with_predictions))
    answers = _write_predictions(run, to / ANSWERS) if settings.with_predictions else []
    if settings.licence is None:
        say("the card names no licence: --licence gives one")
    write_atomically(to / CARD, _card(recipe, comparison, public_recipe(run, scrubber), settings))
    refuse_private(to, (path for path in names if Path(path).is_absolute()), answers)


def _rows(comparison: Comparison) -> str:
    """Return one line of JSON for each row; each metric and each end of its interval is a column."""
    lines: str = comparison.frame().reset_index().to_json(orient="records", lines=True, double_precision=15)
    return lines.rstrip("\n") + "\n"


def _write_predictions(run: Path, to: Path) -> list[Path]:
    """Write the predictions of every cell, all with the same columns; return the files."""
    found: dict[Path, list[dict[str, Any]]] = {}
    for folder, result in read_results(run).cells:
        if not (folder / PREDICTIONS).is_file():
            continue
        if PREDICTIONS in changed_records(folder, result):
            raise UserError.at(str(folder / PREDICTIONS), "is not what the run wrote.", "Run the recipe again.")
        about = {"label": result.label, "seed": result.seed}
        found[to / result.label / f"seed-{result.seed}.jsonl"] = [
            {**about, **line} for line in read_lines(folder / PREDICTIONS)
        ]
    columns = list(dict.fromkeys(name for records in found.values() for record in records for name in record))
    for path, records in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, _lines(records, columns))
    return list(found)


def _lines(records: Iterable[Mapping[str, Any]], columns: list[str]) -> str:
    """Return records as JSON Lines; a column that a record does not have is null."""
    complete = ({name: record.get(name) for name in columns} for record in records)
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in complete)


def _card(recipe: Recipe, comparison: Comparison, recipe_text: str, settings: TableSettings) -> str:
    from huggingface_hub import DatasetCardData

    configurations = [{"config_name": "rows", "data_files": ROWS, "default": True}]
    if settings.with_predictions:
        configurations.append({"config_name": ANSWERS, "data_files": f"{ANSWERS}/*/*.jsonl"})
    more: Any = {"configs": configurations, TAG: table_marker(recipe)}
    data = DatasetCardData(
        license=settings.licence,
        pretty_name=f"{recipe.name}: a comparison of adapter methods",
        tags=[TAG],
        **more,
    )
    return with_metadata(data, "\n\n".join(_sections(recipe, comparison, recipe_text, settings)))


def _sections(recipe: Recipe, comparison: Comparison, recipe_text: str, settings: TableSettings) -> list[str]:
    base = base_model(recipe, None)
    intro = (
        f"Adapter methods on the base model {escape_markdown(base.name)}, trained and measured by adapterzoo on the "
        f"same rows in the same order. {escape_markdown(base.note)}"
    ).strip()
    files = [
        (ROWS, "one line for each row of the table, with all digits"),
        (JSON, "the whole comparison, with intervals, ties, versions and loss curves"),
        (PAGE, "the comparison as a page that loads nothing from the network"),
    ]
    if settings.with_predictions:
        files.append((f"{ANSWERS}/", "each test row, and the answer of each row of the table to it"))
    load = f"import datasets\n\nrows = datasets.load_dataset({settings.repository!r}, 'rows', split='train')"
    about = "" if settings.with_predictions else "The test rows and the answers to them are not published."
    licence = f"Licence: {escape_markdown(settings.licence)}." if settings.licence else "Its owner gave no licence."
    facts = versions(comparison.blocks[0].environment)
    return [
        f"# {escape_markdown(recipe.name)}: a comparison of adapter methods",
        intro,
        markdown(comparison).strip(),
        f"## Files\n\n{table(('file', 'content'), files)}",
        *filter(None, [about]),
        fenced(load, "python"),
        f"## Versions\n\n{table(('', ''), list(facts.items()))}",
        folded("The recipe", fenced(recipe_text, "yaml")),
        f"## Licence\n\n{licence} The base model and the data have licences of their own.",
    ]
