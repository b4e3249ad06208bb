"""Tests of the HTML page in a real browser."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pages import Show, header, history, labels, put, trial, tuning
from playwright.sync_api import expect

from adapterzoo.comparison import Comparison, compare
from adapterzoo.report import page
from adapterzoo.report.page.rows import page_cell, page_columns

HOSTILE = (
    "<script>alert(1)</script>",
    "</script><img src=x onerror=alert(2)>",
    "\"'><b onmouseover=alert(3)>",
    '<a href="javascript:alert(4)">link</a>',
    "&lt;i&gt; &amp; $x^2$ **bold** [l](javascript:alert(5)) {{ 7*7 }} <!--",
    "<b>%{x}</b> %{customdata}<br>",
    "\x1b[2J\x1b]0;owned\x07\u202e",
)
SEEN = (*HOSTILE[:-1], "�[2J�]0;owned��")


def figures(comparison: Comparison) -> dict[str, list[dict[str, Any]]]:
    found = re.search(r'<script type="application/json" id="figures">(.*?)</script>', page.html(comparison), re.DOTALL)
    return json.loads(found[1]) if found else {}


def drawn(shown: Any, number: int) -> Any:
    """Return the traces of a plot as plotly has them, after plotly has found no fault with them."""
    box = shown.locator(".plot").nth(number)
    faults = box.evaluate("box => Plotly.validate(box.data, box.layout) ?? []")
    assert [fault for fault in faults if fault["code"] not in ("unused", "invisible")] == []
    return box.evaluate("box => box.data.map(({x, y, mode, text, line}) => ({x, y, mode, text, line}))")


def test_the_whole_table_is_readable_without_javascript(show: Show, comparison: Comparison) -> None:
    shown_columns = page_columns(comparison)
    with show(comparison, java_script_enabled=False) as shown:
        for row, line in zip(comparison.rows, shown.locator("tbody").first.locator("tr").all(), strict=True):
            texts = [text.rstrip("*=▲▼") for text in line.locator("td").all_inner_texts()]
            assert texts == [page_cell(row, column, failed=column is shown_columns[0]) for column in shown_columns]
        titles = [column.title for column in shown_columns]
        assert shown.locator("thead").first.locator("th").all_inner_texts()[1:] == titles
        assert shown.get_by_text("need JavaScript").is_visible()
        assert shown.locator(".plots").is_hidden()
        assert shown.locator(".best").count() > 0
        assert shown.locator("h1").inner_text() == "5 adapters compared on smollm2-135m"
        assert "torch 2.13.0, peft 0.21.2" in shown.locator("header").inner_text()
        assert "weights 4306fc409579" in shown.locator("header").inner_text()
        assert "broke failed: out of memory" in shown.locator(".notes").inner_text()


def test_columns_sort_by_mouse_and_keyboard_and_missing_values_stay_last(show: Show, comparison: Comparison) -> None:
    with show(comparison) as shown:
        assert labels(shown)[0] == "good"
        params = header(shown, "params")
        params.get_by_role("button").click()
        assert labels(shown) == ["tiny", "cheap", "good", "costly", "base-4-shot", "base", "broke"]
        assert params.get_attribute("aria-sort") == "ascending"
        params.get_by_role("button").click()
        assert labels(shown) == ["costly", "good", "cheap", "tiny", "base-4-shot", "base", "broke"]
        assert params.get_attribute("aria-sort") == "descending"
        header(shown, "match").get_by_role("button").focus()
        shown.keyboard.press("Enter")
        assert labels(shown) == ["good", "costly", "cheap", "tiny", "base-4-shot", "base", "broke"]
        assert params.get_attribute("aria-sort") is None
        shown.keyboard.press("Space")
        assert labels(shown) == ["base", "base-4-shot", "tiny", "cheap", "costly", "good", "broke"]
        header(shown, "method").get_by_role("button").click()
        assert labels(shown) == sorted(labels(shown))


def test_on_a_phone_only_the_table_scrolls_sideways_and_its_labels_stay_in_view(
    show: Show, comparison: Comparison
) -> None:
    comparison.rows[0].label = "a-label-of-many-words-" * 6
    phone = {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True}
    with show(comparison, **phone) as shown:
        assert shown.evaluate("document.documentElement.scrollWidth") == 360
        for element in (".scroll", ".plot svg.main-svg", ".plots select", "fieldset", "h1", ".filters", ".answers"):
            assert shown.locator(element).first.bounding_box()["width"] <= 360
        table, label = shown.locator(".scroll").first, shown.locator("tbody th").nth(1)
        assert table.evaluate("table => table.scrollWidth > table.clientWidth")
        assert label.bounding_box()["width"] < 180
        before = label.bounding_box()["x"]
        table.evaluate("table => table.scrollLeft = 200")
        assert table.evaluate("table => table.scrollLeft") == 200
        assert label.bounding_box()["x"] == before
        finger, place = shown.context.new_cdp_session(shown), shown.locator(".plot").first.bounding_box()
        shown.evaluate("top => scrollTo(0, top)", place["y"] - 200)
        for y in range(500, 300, -20):
            kind = "touchStart" if y == 500 else "touchMove"
            finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": 180, "y": y}]})
        finger.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
        shown.wait_for_function("top => scrollY > top + 100", arg=place["y"] - 200)


def test_the_score_is_plotted_against_the_chosen_cost(show: Show, comparison: Comparison) -> None:
    with show(comparison) as shown:
        box, select = shown.locator(".plot").first, shown.locator(".plots select").first
        assert box.locator("svg.main-svg").count() > 0
        front, *points = drawn(shown, 0)
        assert {point["text"][0] for point in points} == {"tiny", "cheap", "good", "costly"}
        assert (front["x"], front["y"]) == ([57_600, 900_000, 2_400_000], [0.6, 0.7, 0.825])
        assert box.locator(".errorbar").count() == 4
        assert box.locator(".shape-label").all_text_contents() == ["base-4-shot 0.325", "base 0.025"]
        assert box.locator(".xtitle").text_content() == "trainable parameters"
        assert "tiny, cheap, good" in shown.locator("figcaption").first.inner_text()
        select.focus()
        shown.keyboard.press("ArrowDown")
        assert select.input_value() == "training time"
        assert drawn(shown, 0)[0]["x"] == [56, 97]
        assert box.locator(".xtitle").text_content() == "training time, seconds"
        select.select_option("peak memory")
        assert len(drawn(shown, 0)) == 1 + 3, "a method without a memory figure has no point"
        assert "a value is missing: tiny, broke" in shown.locator("figcaption").first.inner_text()


def test_the_loss_of_every_method_is_drawn_and_rows_can_be_hidden(show: Show, comparison: Comparison) -> None:
    with show(comparison) as shown:
        assert [len(trace["x"]) for trace in drawn(shown, 1)] == [30] * 4
        assert shown.locator(".plot").nth(1).evaluate("box => box.layout.yaxis.type") == "log"
        shown.locator(".plots select").nth(1).select_option("mean of the last 10")
        assert [len(trace["x"]) for trace in drawn(shown, 1)] == [21] * 4
        shown.get_by_role("checkbox", name="good").focus()
        shown.keyboard.press("Space")
        assert len(drawn(shown, 1)) == 3
        assert len(drawn(shown, 0)) == 1 + 3
        shown.get_by_role("checkbox", name="base", exact=True).click()
        names = shown.locator(".plot").first.locator(".shape-label").all_text_contents()
        assert [name for name in names if name] == ["base-4-shot 0.325"]
        shown.get_by_role("button", name="none", exact=True).click()
        assert drawn(shown, 1) == []
        shown.get_by_role("button", name="all", exact=True).click()
        assert len(drawn(shown, 1)) == 4


def test_trials_are_sorted_and_the_chosen_one_is_marked(show: Show, comparison: Comparison) -> None:
    with show(comparison) as shown:
        section = shown.locator(".tuning")
        assert section.locator("summary").inner_text() == "good: 5 trials, chosen: r 8"
        assert [line.inner_text().split() for line in section.locator("tbody tr").all()] == [
            ["1", "chosen", "8", "0.9*", "0.125", "1:01"],
            ["2", "1", "0.9", "1", "1:01"],
            ["3", "16", "0.7", "0.0625", "1:01"],
            ["4", "2", "0.5", "0.5", "1:01"],
            ["5", "4", "-", "-", "1:01", "out", "of", "memory"],
        ]
        assert section.locator("tr.chosen").count() == 1


def test_trials_and_the_front_are_right_if_a_lower_score_is_better(tmp_path: Path) -> None:
    for label, loss, params in (("a", 0.5, 10), ("b", 0.9, 5), ("c", 0.6, 20)):
        put(tmp_path, label, metrics={"test_loss": loss}, trainable_params=params)
    tried = tuning([trial(1, 0.71), trial(2, 0.33)], 2, "validation loss")
    put(tmp_path, "d", metrics={"test_loss": 0.4}, tuning=tried, trainable_params=30)
    comparison = compare(tmp_path)
    figure, *_ = figures(comparison)["plot-0-0"]
    assert [comparison.rows[i].label for i in figure["front"]] == ["b", "a", "d"]
    assert figure["yaxis"]["title"]["text"] == "loss, lower is better"
    assert page.html(comparison).index('data-key="0.33"') < page.html(comparison).index('data-key="0.71"')


def hostile(folder: Path) -> Comparison:
    """Return rows in which every text of a recipe, a plugin or a model is hostile."""
    for i, text in enumerate(HOSTILE):
        tried = tuning([{**trial(1, 0.5, text), "settings": {text: text}}], 1, text) | {"chosen": {text: text}}
        metrics = {text: 0.1 * i, **{f"other {text}": 0.2 for text in HOSTILE}}
        values = {"environment": {"device": text, "packages": {text: text}}, "fingerprints": {"weights": text}}
        values |= {"recipe": {"model": {"name": HOSTILE[0]}, "evaluate": {"text": text}}, "tuning": tried}
        more = {"metrics": metrics, "trainable_params": 1 + i, "history": history(3.0), "quantization": text}
        put(folder, f"row-{i}", findings={"adjusted": {text: text}}, **more, **values)
    put(folder, "row-last", status="failed", error=" ".join(HOSTILE))
    comparison = compare(folder)
    for row, text in zip(comparison.rows, HOSTILE, strict=False):
        row.label = text  # a folder cannot have this name, but a comparison made by another program can
    return comparison


def test_hostile_text_is_shown_but_has_no_effect(show: Show, tmp_path: Path) -> None:
    comparison = hostile(tmp_path)
    assert not any(sign in page.html(comparison) for sign in ("\x1b", "\x07", "\u202e"))
    with show(comparison) as shown:
        text = shown.locator("body").inner_text()
        assert all(seen in text for seen in map(str.strip, SEEN))
        assert shown.evaluate("document.querySelectorAll('body img, body a:not(.plot a), body b, body i').length") == 0
        assert shown.evaluate("document.querySelectorAll('.plot a:not(.modebar a)').length") == 0
        assert shown.locator("body script:not([type])").count() == 4
        assert set(shown.locator(".plot").first.locator(".textpoint").all_text_contents()) <= set(SEEN)
        assert SEEN[0] in shown.title()


def test_hostile_text_has_no_effect_in_the_box_over_a_point(show: Show, tmp_path: Path) -> None:
    for i in range(len(HOSTILE)):
        put(tmp_path, f"row-{i}", 20, trainable_params=5 + i, history=history(3.0 + i))
    comparison = compare(tmp_path)
    for row, text in zip(comparison.rows, HOSTILE, strict=True):
        row.label = text
    with show(comparison) as shown:
        for number in (0, 1):
            plot, seen, before = shown.locator(".plot").nth(number), set(), ""
            for curve in range(1 - number, len(HOSTILE) + 1 - number):
                plot.evaluate("(box, n) => Plotly.Fx.hover(box, [{curveNumber: n, pointNumber: 0}])", curve)
                box = plot.locator(".hoverlayer text")
                expect(box.first).not_to_have_text(before)  # plotly shows the box some time later
                before = box.first.text_content()
                seen |= {text for text in SEEN if text in before}
                assert box.locator("a, b").count() == 0
            assert seen == set(SEEN)


def test_the_policy_blocks_other_scripts_and_the_network(show: Show, comparison: Comparison) -> None:
    with show(comparison, allowed="Content Security Policy") as shown:
        shown.evaluate(
            """() => {
              const script = document.createElement("script");
              script.textContent = "window.owned = true";
              document.body.append(script);
              return fetch("https://example.org").catch(() => null);
            }"""
        )
        assert shown.evaluate("window.owned") is None
        picture = shown.locator(".plot").first.evaluate("box => Plotly.toImage(box, {format: 'png'})")
        assert picture.startswith("data:image/png")


def test_the_page_is_dark_if_the_reader_wants_it_and_never_on_paper(show: Show, comparison: Comparison) -> None:
    def colours(shown: Any) -> tuple[int, int]:
        """Return the brightness of the page and of the words on a plot."""
        background_and_text = shown.evaluate(
            """() => [getComputedStyle(document.body).backgroundColor,
                      getComputedStyle(document.querySelector(".plot .xtick text")).fill]"""
        )
        page, words = (sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in background_and_text)
        return page, words

    with show(comparison, color_scheme="dark") as shown:
        page, words = colours(shown)
        assert page < 120
        assert words > 600
        assert shown.locator(".plot .bg").first.evaluate("back => getComputedStyle(back).fillOpacity") == "0"
        shown.emulate_media(media="print", color_scheme="dark")
        page, words = colours(shown)
        assert page == 3 * 255
        assert words < 150
        assert shown.pdf().startswith(b"%PDF")


def one_row(folder: Path) -> None:
    put(folder, "only", 20)


def all_failed(folder: Path) -> None:
    for label in "ab":
        put(folder, label, status="failed", error="out of memory")


def metrics_missing(folder: Path) -> None:
    put(folder, "a", metrics={"exact_match": 0.5, "bleu": 3.0}, history=[{"step": 1.0, "loss": 2.0}])
    put(folder, "b", metrics={"bleu": 4.0}, trainable_params=7, history=[{"step": 1.0, "eval_loss": 2.0}])
    put(folder, "c", metrics={}, train_seconds=5.0)


def only_the_base(folder: Path) -> None:
    put(folder, "base", 3, method=None)


def empty_tuning(folder: Path) -> None:
    put(folder, "a", 3, tuning=tuning([], 1))
    put(folder, "b", status="failed", error="no trial came to an end", tuning=tuning([trial(1, None, "broke")], 1))


def losses_of_nought(folder: Path) -> None:
    put(folder, "a", 0, history=[{"step": 1.0, "loss": 0.0}, {"step": 2.0, "loss": 50.0}], train_seconds=0.0)
    put(folder, "b", 40, history=[{"step": 1.0, "loss": 1e-9}], train_seconds=90_000.0, peak_memory_bytes=1)


CASES = (one_row, all_failed, metrics_missing, only_the_base, empty_tuning, losses_of_nought)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_unusual_results_make_a_page(case: Callable[[Path], None], show: Show, tmp_path: Path) -> None:
    case(tmp_path)
    comparison = compare(tmp_path, price=2.0)
    with show(comparison) as shown:
        assert labels(shown) == [row.label for row in comparison.rows]
        for i in range(shown.locator(".plot").count()):
            drawn(shown, i)


def test_rows_that_cannot_be_compared_are_in_separate_tables(show: Show, tmp_path: Path) -> None:
    for label, torch, cores in (("a", "2.10", 2), ("b", "2.10", 4), ("c", "2.13", 2)):
        environment = {"packages": {"torch": torch}, "cores": cores}
        put(tmp_path, label, 20, environment=environment, train_seconds=5.0, trainable_params=5)
    with show(compare(tmp_path)) as shown:
        assert shown.locator("table").count() == 2
        assert "Not comparable with the first table: packages.torch" in shown.locator("h2").first.inner_text()
        assert shown.locator(".plot").count() == 2
        assert shown.get_by_role("heading", name="Score against cost, table 2").is_visible()
        assert len(drawn(shown, 0)[0]["x"]) > 0
        shown.locator(".plots select").first.select_option("training time")
        assert drawn(shown, 0)[0]["x"] == [], "times of different machines have no front"


def test_the_page_is_small_apart_from_one_copy_of_plotly(tmp_path: Path) -> None:
    from plotly.offline import get_plotlyjs

    for i in range(50):
        put(tmp_path, f"row-{i}", i % 40, history=history(3.0, 2000), trainable_params=i + 1, train_seconds=9.0)
    text = page.html(compare(tmp_path))
    assert text.count("plotly.js v") == get_plotlyjs().count("plotly.js v") == 1
    assert len(text) - len(get_plotlyjs()) < 1_000_000
    all_failed(tmp_path / "failed")
    assert len(page.html(compare(tmp_path / "failed"))) < 30_000, "a page without plots does not include plotly"
