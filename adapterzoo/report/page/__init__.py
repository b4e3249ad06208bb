"""A comparison as one HTML file: to filter, to sort, to compare any two rows, and to read the answers.

It fetches nothing from the network. What ``adapterzoo view`` shows is the same page, which asks the server for news.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any

from adapterzoo.comparison.comparison import Block, Comparison
from adapterzoo.report import notes
from adapterzoo.report.page.answers import answers
from adapterzoo.report.page.pairs import SIGNS, differences
from adapterzoo.report.page.plots import section
from adapterzoo.report.page.rerun import reruns
from adapterzoo.report.page.rows import high_first, limits, page_cell, page_columns, sign, sort_key
from adapterzoo.report.page.trials import ordered_trials, setting
from adapterzoo.report.template import environment, source
from adapterzoo.terminal import clean, duration

if TYPE_CHECKING:
    from jinja2 import Environment, Template


def html(comparison: Comparison, public: Callable[[str], str] = str, *, with_answers: bool = True) -> str:
    """Return the page, which loads nothing from the network and runs only its own scripts.

    Args:
        comparison: what the page shows; none of its texts is trusted.
        public: returns the texts of recipes and commands as they may be shown, without local paths if the page is
            published.
        with_answers: whether the page has the test rows and the answers to them.
    """
    sections = _sections(comparison)
    shown = _content(comparison, sections, public, with_answers=with_answers)
    return _shell(title(comparison), shown, plots=bool(sections), live=False)


def live_page(page_title: str, page_content: str, version: str) -> str:
    """Return the page that asks the server it came from for news of a run.

    Args:
        page_title: its title.
        page_content: what it shows first, from :func:`content` or :func:`waiting`.
        version: names this content, so that the page can ask for a newer one.
    """
    return _shell(page_title, page_content, plots=True, live=True, version=version)


def title(comparison: Comparison) -> str:
    """Return the title of the page, as text."""
    adapters = sum(row.method is not None for row in comparison.rows)
    model = _model(comparison.blocks)
    return clean(f"{adapters} adapter{'s' if adapters != 1 else ''} compared{f' on {model}' if model else ''}")


def content(comparison: Comparison) -> str:
    """Return all that the page shows of a comparison, as HTML."""
    return _content(comparison, _sections(comparison))


def waiting(folder: str) -> str:
    """Return what the page shows as long as a folder has no result, as HTML."""
    return _template("waiting.html.in").render(folder=folder)


def _content(
    comparison: Comparison,
    sections: Sequence[dict[str, Any]],
    public: Callable[[str], str] = str,
    *,
    with_answers: bool = True,
) -> str:
    shown = page_columns(comparison)
    explanations = [column.explanation for column in shown if column.explanation]
    blocks = enumerate(comparison.blocks) if with_answers else ()
    all_answers = {str(number): found for number, block in blocks if (found := answers(block))}
    all_differences = differences(comparison)
    return _template("content.html.in").render(
        comparison=comparison,
        title=title(comparison),
        model=_model(comparison.blocks),
        columns=[(column, high_first(comparison, column)) for column in shown],
        limits=limits(comparison, shown),
        row_notes=list(notes.row_notes(comparison)),
        notes=[*notes.verdicts(comparison), *notes.next_steps(comparison), *notes.legend(comparison), *explanations],
        tuned=[
            (row, ordered_trials(comparison, row.tuning))
            for row in comparison.rows
            if row.tuning and row.tuning["trials"]
        ],
        sections=sections,
        figures={plot["id"]: list(plot["choices"].values()) for section in sections for plot in section["plots"]},
        answers=all_answers,
        differences=all_differences,
        references=[_reference(comparison, block) for block in comparison.blocks],
        reruns=[reruns(block, public) for block in comparison.blocks],
    )


def _sections(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the plots of each block that has any."""
    return [made for block in comparison.blocks if (made := section(comparison, block))["plots"]]


def _reference(comparison: Comparison, block: Block) -> str:
    """Return the label of the row that a block's table shows differences from; empty if there is none."""
    paired = block.pairs.get(block.rows[0].rank_metric or "")
    if any(row.label == comparison.against for row in block.rows):
        return comparison.against or ""
    return paired.best if paired and paired.best in paired.labels else ""


def _shell(page_title: str, page_content: str, *, plots: bool, live: bool, version: str = "") -> str:
    from markupsafe import Markup
    from plotly.offline import get_plotlyjs  # returns the script that plotly puts into its own pages

    scripts = [_source("table.js.in"), _source("answers.js.in")]
    if plots:
        scripts += [get_plotlyjs(), _source("plots.js.in")]
    if live:
        scripts.append(_source("live.js.in"))
    return _template("page.html.in").render(
        title=page_title,
        # The templates have escaped every text in the content; the scripts and the style are our own files.
        content=Markup(page_content),  # noqa: S704
        scripts=[Markup(script) for script in scripts],  # noqa: S704
        style=Markup(_source("style.css.in")),  # noqa: S704
        live=live,
        version=version,
    )


@cache
def _environment() -> Environment:
    made = environment(__name__)
    made.globals.update(why_apart=notes.why_apart, cell=page_cell, sign=sign, signs=SIGNS)
    made.globals.update(sort_key=sort_key, setting=setting, duration=duration)
    return made


def _template(name: str) -> Template:
    return _environment().get_template(name)


def _source(name: str) -> str:
    return source(__name__, name)


def _model(blocks: Sequence[Block]) -> str:
    """Return the name of the base model; empty if the rows have different ones."""
    recipes = [result.recipe for block in blocks for evidence in block.evidence for result in evidence.results]
    names = {str(name) for recipe in recipes if (name := recipe.get("model", {}).get("name"))}
    return names.pop() if len(names) == 1 else ""
