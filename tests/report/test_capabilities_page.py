"""Tests of the page of what methods can do, in a real browser."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from adapterzoo.report.capabilities import Column, Row, Table, html, markdown

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
HOSTILE = "<img src=x onerror=alert(1)>\"'| `x` \x1b[2J"
TABLE = Table(
    [Column("nf4", "nf4", "trains on 4 bits"), Column("merges", "merges", HOSTILE)],
    [
        Row("both", "does everything", {"nf4": True, "merges": True}),
        Row("one", "low rank", {"nf4": True, "merges": HOSTILE}),
        Row("none", HOSTILE, {"nf4": "no memory"}),
    ],
    [HOSTILE],
)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Return the opened page; fail if it loads a file or logs a message."""
    from playwright.sync_api import sync_playwright

    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        assert not os.environ.get("CI"), "there is no Chromium"
        pytest.skip("there is no Chromium")
    file = tmp_path_factory.mktemp("page") / "page.html"
    file.write_text(html(TABLE), encoding="utf-8")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        shown, troubles = running.new_page(), []
        shown.set_default_timeout(10_000)
        shown.on("console", lambda message: troubles.append(message.text))
        shown.on("pageerror", lambda error: troubles.append(str(error)))
        shown.on("dialog", lambda dialog: (troubles.append(dialog.message), dialog.dismiss()))
        shown.on("requestfailed", lambda request: troubles.append(request.url))
        shown.goto(file.as_uri())
        yield shown
        running.close()
    assert troubles == []


def visible(page: Any) -> list[str]:
    return [row.locator("th").inner_text() for row in page.locator("tbody tr:visible").all()]


def test_it_is_filtered_from_the_keyboard(page: Any) -> None:
    page.reload()
    assert visible(page) == ["both", "one", "none"]
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert visible(page) == ["both", "one"]
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    assert visible(page) == ["both"]
    assert page.locator("#count").inner_text() == "1 of 3 methods"
    assert page.locator("#command").inner_text() == "adapterzoo methods --where nf4,merges"
    assert page.url.endswith("#nf4,merges")
    page.reload()
    assert visible(page) == ["both"], "an address with a filter can be passed on"
    page.get_by_role("button", name="Show all").press("Enter")
    page.locator("#count", has_text="3 of 3").wait_for()
    page.get_by_label("Name or summary contains").fill("RANK")
    assert visible(page) == ["one"]


def test_a_reason_opens_where_it_stands(page: Any) -> None:
    page.get_by_role("button", name="Show all").click()
    page.locator("#count", has_text="3 of 3").wait_for()
    reason = page.locator("details").first
    reason.locator("summary").press("Enter")
    assert HOSTILE[:28] in reason.inner_text()
    assert page.locator("td", has_text="not known").count() == 1


def test_hostile_text_stays_text(page: Any) -> None:
    assert page.locator("img").count() == 0
    assert "\x1b" not in html(TABLE) + markdown(TABLE)
    assert "<img" not in html(TABLE)


def test_without_its_script_the_page_is_whole() -> None:
    text = html(TABLE)
    assert '<form id="filter" hidden>' in text
    assert "<tr hidden" not in text
    assert "unsafe-inline" not in text
