"""A browser for the tests of the page, one for each file of them, and a function that opens a page and watches it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from pages import Show, several

from adapterzoo.comparison import Comparison, compare
from adapterzoo.report import page

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@pytest.fixture
def comparison(tmp_path: Path) -> Comparison:
    """Return two base rows, four methods and a failed one; ``costly`` is worse than ``good`` and costs more."""
    several(tmp_path)
    return compare(tmp_path)


@pytest.fixture(scope="module")  # a browser that stays open would disturb tests that fork
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        assert not os.environ.get("CI"), "there is no Chromium"
        pytest.skip("there is no Chromium")
    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture
def show(browser: Any, tmp_path: Path) -> Show:
    """Return a function that opens the page of a comparison, and fails if the page loads a file or logs a message."""

    @contextmanager
    def opened(comparison: Comparison, allowed: str = "", **settings: Any) -> Iterator[Any]:
        path = tmp_path / "page.html"
        path.write_text(page.html(comparison), encoding="utf-8")
        context = browser.new_context(offline=True, **settings)
        context.set_default_timeout(10_000)
        shown, requests, messages = context.new_page(), [], []
        shown.on("request", lambda request: requests.append(request.url))
        shown.on("console", lambda message: messages.append(message.text))
        shown.on("pageerror", lambda error: messages.append(str(error)))
        shown.on("dialog", lambda dialog: (messages.append(dialog.message), dialog.dismiss()))
        shown.goto(path.as_uri())
        yield shown
        shown.wait_for_timeout(50)
        context.close()
        assert [url for url in requests if not url.startswith(("data:", "blob:"))] == [path.as_uri()]
        assert [message for message in messages if not allowed or allowed not in message] == []

    return opened
