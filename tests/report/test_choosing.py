"""Tests of the page as the place to choose: filters, differences, answers, recipe, keyboard, paper, accessibility."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from pages import EXAMPLES, Show, header, history, labels, put, several
from playwright.sync_api import expect

from adapterzoo.comparison import Comparison, compare
from adapterzoo.report import page
from adapterzoo.report.columns import difference_text, interval_text, p_value_text

FROZEN = Path("tests/support/frozen")
PAPER = {"width": 1047, "height": 740}  # A4 across, without its margins


def embedded(comparison: Comparison, name: str) -> Any:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', page.html(comparison), re.DOTALL)
    return json.loads(found[1]) if found else None


def shown_labels(shown: Any) -> list[str]:
    return list(shown.locator("table.rows tbody tr:not([hidden]) th").all_inner_texts())


def column(shown: Any, title: str) -> dict[str, str]:
    """Return label -> text of a column of the first table."""
    number = header(shown, title).evaluate("head => head.cellIndex")
    rows = shown.locator("table.rows").first.locator("tbody tr").all()
    return {row.locator("th").inner_text(): row.locator("td").nth(number - 1).inner_text() for row in rows}


def plotted(shown: Any) -> set[str]:
    return set(shown.locator(".plot").first.evaluate("box => box.data.flatMap(({text}) => text ?? [])"))


def test_filters_leave_rows_out_of_the_table_the_plots_and_the_answers(show: Show, comparison: Comparison) -> None:
    with show(comparison) as shown:
        shown.locator("input[name=find]").fill("COST")
        assert shown_labels(shown) == ["costly"]
        assert shown.locator(".filters output").inner_text() == "1 of 7 rows"
        shown.get_by_role("button", name="show all").click()
        # A browser empties a form's fields after its event, so the page filters a moment later.
        expect(shown.locator(".filters output")).to_have_text("7 of 7 rows")
        assert len(shown_labels(shown)) == 7
        shown.locator("select[name=kind]").select_option("best and tied")
        assert shown_labels(shown) == ["good", "costly", "cheap"]
        shown.locator("select[name=kind]").select_option("adapters")
        shown.get_by_text("by score and cost").click()
        shown.locator("select[data-column=trainable_params]").select_option("at most 900k")
        assert shown_labels(shown) == ["cheap", "tiny"]
        assert plotted(shown) == {"cheap", "tiny"}
        assert {"cheap ✗ wrong", "tiny ✗ wrong"} >= set(shown.locator(".answers article dt").all_inner_texts()) - {
            "right answer", "cheap ✓ right", "tiny ✓ right"
        }  # fmt: skip
        shown.locator("select[data-column=exact_match]").select_option("at least 0.700")
        assert shown_labels(shown) == ["cheap"]


def test_every_difference_is_the_one_that_was_computed_for_the_pair(show: Show, comparison: Comparison) -> None:
    (block,) = comparison.blocks
    paired = block.pairs["exact_match"]
    p_values, difference = paired.corrected(), difference_text("exact_match")
    with show(comparison) as shown:
        assert column(shown, "vs best")["cheap"].rstrip("=") == difference(paired.differences["cheap", "good"].value)
        for reference in ("tiny", "base"):
            shown.get_by_role("button", name=reference, exact=True).click()
            differences, ends, ps = (column(shown, title) for title in (f"vs {reference}", "its 95 %", "p"))
            for label in set(paired.labels) - {reference}:
                pair = paired.differences[label, reference]
                assert differences[label].rstrip("=▲▼") == difference(pair.value)
                assert ends[label] == interval_text(pair.interval)
                assert ps[label] == p_value_text(p_values[label, reference])
                assert differences[label].endswith("=" if p_values[label, reference] >= 0.05 else ("▲", "▼"))
            assert differences[reference] == ps["broke"] == "-"
            assert shown.get_by_role("button", name=reference, exact=True).get_attribute("aria-pressed") == "true"
            row = shown.get_by_role("row", name=re.compile("^cheap"))  # the words for those who see no colour
            assert row.get_by_role("img", name="tied" if reference == "tiny" else "better", exact=True).count() == 1
        shown.get_by_role("button", name="vs base").click()
        assert labels(shown)[:3] == ["good", "costly", "cheap"]
        assert shown.locator("select[name=reference]").input_value() == "base"


def test_differences_of_seeds_and_other_metrics_match_the_frozen_comparison(show: Show) -> None:
    comparison = compare(FROZEN / "schema-1", against="lora")
    with show(comparison) as shown:
        before = column(shown, "vs lora")
        assert before["ia3"].rstrip("=▲▼") == difference_text("exact_match")(
            next(row.difference for row in comparison.rows if row.label == "ia3")
        )
        shown.locator("select[name=metric]").select_option("loss")
        paired = comparison.blocks[0].pairs["test_loss"]
        expected = difference_text("test_loss")(paired.differences["ia3", "lora"].value)
        assert column(shown, "vs lora")["ia3"].rstrip("=▲▼") == expected


def test_answers_are_side_by_side_and_their_differing_words_are_marked(show: Show, tmp_path: Path) -> None:
    several(tmp_path)
    with show(compare(tmp_path)) as shown:
        section, first = shown.locator(".answers"), shown.locator(".answers article").first
        assert first.locator("h3").inner_text() == "0: go 0"
        section.locator("select[name=which]").select_option("that only some rows answered rightly")
        assert section.locator("output").inner_text() == "1 to 5 of 32 examples"
        section.get_by_role("button", name="next").click()
        assert section.locator("output").inner_text() == "6 to 10 of 32 examples"
        section.locator("select[name=which]").select_option("that no row answered rightly")
        assert section.locator("output").inner_text() == f"1 to 5 of {EXAMPLES - 33} examples"
        good = first.locator("div", has=shown.get_by_text("good ✗ wrong"))
        assert good.locator("mark").all_inner_texts() == ["good"]
        assert good.locator("del").all_inner_texts() == ["went"]
        section.locator("select[name=against]").select_option("the answer of good")
        assert good.locator("mark").count() == 0
        tiny = first.locator("div", has=shown.get_by_text("tiny ✗ wrong"))
        assert (tiny.locator("mark").inner_text(), tiny.locator("del").inner_text()) == ("tiny", "good")


def test_long_answers_are_cut_and_the_page_says_how_many_examples_it_has(tmp_path: Path) -> None:
    from adapterzoo.results.result import Result
    from adapterzoo.results.store import Store

    rows = [
        {"index": i, "prompt": "p" * 5000, "reference": "r", "prediction": f"{i}" * 9000, "exact_match": False}
        for i in range(400)
    ]
    Store(tmp_path).write(Result("a", "a", 0, "none", metrics={"exact_match": 0.0}), rows)
    comparison = compare(tmp_path)
    kept = embedded(comparison, "answers")["0"]
    assert kept["total"] == 400
    assert 200 < len(kept["examples"]) < 300
    assert len(kept["examples"][0]["texts"][0]) < 2010
    assert f"The page has the first {len(kept['examples'])} of 400 test examples" in page.html(comparison)


def test_the_page_has_the_recipe_and_the_commands_that_run_it_again(show: Show) -> None:
    folder = FROZEN / "schema-1"
    with show(compare(folder)) as shown:
        section = shown.locator(".rerun")
        commands = section.locator("pre").first.inner_text()
        assert f"adapterzoo run {folder}/recipe.yaml --out {folder}-again --seed 0 --seed 1\n" in commands
        assert commands.startswith("pip install torch==")
        section.locator("summary").click()
        recipe = (folder / "recipe.yaml").read_text(encoding="utf-8")
        assert section.locator("pre").nth(1).text_content().strip() == recipe.strip()
        section.get_by_role("button", name=re.compile("^copy the recipe")).click()
        expect(section.locator("output").nth(1)).to_have_text(re.compile("copied|selected"))


def test_results_without_a_recipe_file_say_what_is_missing(comparison: Comparison) -> None:
    text = page.html(comparison)
    assert "add the methods and seeds" in text
    assert "The recipe, with every default, without methods and seeds" in text


def test_how_rows_are_served_is_shown_if_it_is_known(show: Show, comparison: Comparison) -> None:
    assert "served as" not in page.html(comparison)
    for row in comparison.rows[:2]:
        row.serving = {
            "served_as": "lora <b>",
            "bytes": 9_860_000,
            "seconds": 0.25,
            "ok": True,
            "merged": {"seconds": 0.125},
        }
    with show(comparison) as shown:
        assert column(shown, "served as")["good"] == "lora <b>"
        assert column(shown, "bytes")["good"] == "9.86MB"
        assert column(shown, "merged seconds")["good"] == "0.125"
        assert column(shown, "served as")["tiny"] == "-"
        header(shown, "bytes").get_by_role("button").click()
        assert labels(shown)[-1] not in ("good", "costly")


def test_everything_can_be_chosen_with_the_keyboard_alone(show: Show, comparison: Comparison) -> None:
    with show(comparison) as shown:

        def reach(script: str) -> None:
            """Press Tab until the element for which a script is true has the focus."""
            for _ in range(200):
                shown.keyboard.press("Tab")
                if shown.evaluate(f"(({script})(document.activeElement))"):
                    return
            raise AssertionError(f"the keyboard does not reach {script}")

        reach("field => field.name === 'find'")
        shown.keyboard.type("base")
        assert shown_labels(shown) == ["base-4-shot", "base"]
        reach("field => field.type === 'reset'")
        shown.keyboard.press("Enter")
        reach("field => field.textContent === 'params'")
        shown.keyboard.press("Enter")
        assert labels(shown)[0] == "tiny"
        reach("field => field.textContent === 'cheap' && field.closest('table')")
        shown.keyboard.press("Space")
        assert column(shown, "vs cheap")["tiny"].endswith("=")
        reach("field => field.name === 'which'")
        shown.keyboard.press("ArrowDown")
        assert "examples" in shown.locator(".answers output").inner_text()
        reach("field => field.textContent === 'next'")
        shown.keyboard.press("Enter")
        assert shown.locator(".answers output").inner_text().startswith("6 to 10")
        reach("field => field.localName === 'summary' && field.closest('.rerun')")
        shown.keyboard.press("Enter")
        assert shown.evaluate("document.activeElement.parentNode.open")


@pytest.mark.parametrize("settings", [
    {"color_scheme": "light", "viewport": {"width": 1440, "height": 900}},
    {"color_scheme": "dark", "viewport": {"width": 390, "height": 844}, "is_mobile": True, "has_touch": True},
], ids=["light desk", "dark phone"])  # fmt: skip
def test_an_accessibility_engine_finds_no_fault(show: Show, tmp_path: Path, settings: dict[str, Any]) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    several(tmp_path)
    with show(compare(tmp_path), **settings) as shown:
        shown.get_by_role("button", name="cheap", exact=True).click()
        shown.evaluate("document.querySelectorAll('details').forEach((details) => { details.open = true; })")
        found = axe.run(shown).response
        faults = [(fault["id"], fault["nodes"][0]["html"][:200]) for fault in found["violations"]]
        assert faults == []
        assert len(found["passes"]) > 30


def test_nothing_is_cut_on_paper_and_all_is_open(show: Show, tmp_path: Path) -> None:
    several(tmp_path)
    more = {f"another_metric_{i}": 0.123 for i in range(8)}
    put(tmp_path, "wide", 30, trainable_params=5, history=history(3.0), metrics={"exact_match": 0.75, **more})
    with show(compare(tmp_path), viewport=PAPER) as shown:
        shown.emulate_media(media="print")
        shown.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert shown.evaluate("document.documentElement.scrollWidth") <= PAPER["width"]
        cut = "[...document.querySelectorAll('.scroll, pre')].filter((box) => box.scrollWidth > box.clientWidth + 1)"
        assert shown.evaluate(f"{cut}.length") == 0
        assert shown.locator("details:not([open]):visible").count() == 0
        assert shown.locator("input[name=find]").is_hidden()
        assert len(shown.pdf(prefer_css_page_size=True)) > 20_000
        shown.evaluate("dispatchEvent(new Event('afterprint'))")
        assert shown.locator(".rerun details[open]").count() == 0


@pytest.mark.parametrize("schema", sorted(path.name for path in FROZEN.iterdir()))
def test_results_of_older_versions_make_a_whole_page(schema: str) -> None:
    comparison = compare(FROZEN / schema)
    assert embedded(comparison, "answers")["0"]["examples"]
    assert embedded(comparison, "differences")["blocks"][0]
    assert "adapterzoo run " in page.html(comparison)
