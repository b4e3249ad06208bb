"""Tests of ``adapterzoo view``: what its server gives and refuses, and how the page follows a run."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from pages import COMMON, header, put, several
from playwright.sync_api import expect

from adapterzoo.report.live import LiveFolder
from adapterzoo.report.server import PageServer
from adapterzoo.results.note import write_note
from adapterzoo.results.progress import PROGRESS, CellProgress, read_progress, remove_progress, write_progress

LABELS = ("base", "base-4-shot", "tiny", "cheap", "good", "costly", "broke")
CELL = CellProgress(label="next", seed=0, phase="training", step=12, steps=80, loss=0.5321, seconds_left=42.0)


def plan(folder: Path, *more: str) -> None:
    """Write the note of a run with these cells, without any result."""
    folder.mkdir(exist_ok=True)
    write_note(folder, {"identity": {}, "cells": [(label, 0) for label in (*LABELS, *more)]})


@contextmanager
def served(folder: Path) -> Iterator[PageServer]:
    with PageServer(LiveFolder(folder)) as server:
        Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        yield server
        server.shutdown()


def ask(server: PageServer, path: str = "/", method: str = "GET", **headers: str) -> tuple[HTTPResponse, bytes]:
    connection = HTTPConnection("127.0.0.1", server.server_port, timeout=30)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    several(tmp_path)
    plan(tmp_path, "next")
    return tmp_path


def test_the_page_and_its_state_are_all_that_is_served(folder: Path) -> None:
    (folder / "recipe.yaml").write_text("secret: 1\n", encoding="utf-8")
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    with served(folder) as server:
        answer, body = ask(server)
        assert (answer.status, b"5 adapters compared" in body) == (200, True)
        head, empty = ask(server, method="HEAD")
        assert (head.status, empty, head.headers["Content-Length"]) == (200, b"", answer.headers["Content-Length"])
        for name in ("Content-Security-Policy", "X-Content-Type-Options", "Cross-Origin-Resource-Policy"):
            assert answer.headers[name]
        assert not re.search("python", answer.headers["Server"], re.IGNORECASE)
        state = json.loads(ask(server, "/state.json")[1])
        assert "content" in state
        assert "content" not in json.loads(ask(server, f"/state.json?have={state['version']}")[1])
        for path in ("/recipe.yaml", "/../recipe.yaml", "/good/seed-0/result.json", "/index.html", "/%2e%2e/"):
            assert ask(server, path)[0].status == 404
        for method in ("POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"):
            assert ask(server, method=method)[0].status == 405
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


def test_another_host_is_refused_because_its_name_may_have_been_rebound(folder: Path) -> None:
    with served(folder) as server:
        assert server.server_address[0] == "127.0.0.1"
        for host in ("evil.example", f"evil.example:{server.server_port}", "127.0.0.1", "127.0.0.1:1", ""):
            assert ask(server, Host=host)[0].status == 403
        assert ask(server, Host=f"localhost:{server.server_port}")[0].status == 200


def test_the_comparison_is_made_again_only_if_a_result_has_changed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, compared = LiveFolder(folder), []
    from adapterzoo.report import live as module

    original = module.compare
    monkeypatch.setattr(module, "compare", lambda *folders: compared.append(1) or original(*folders))
    first = live.state("")
    assert live.state(first["version"])["version"] == first["version"]
    assert not compared
    put(folder, "next", 40, trainable_params=9)
    second = live.state(first["version"])
    assert ("next" in second["content"], len(compared)) == (True, 1)
    assert second["status"] == "No run is under way: 8 of 8 cells done."


def test_a_damaged_result_is_said_and_the_last_good_page_stays(folder: Path) -> None:
    live = LiveFolder(folder)
    version = live.state("")["version"]
    for path in folder.glob("*/seed-*/result.json"):
        path.write_text("{", encoding="utf-8")
    state = live.state(version)
    assert state["version"] == version
    assert "cannot be shown" in state["status"]
    assert "damaged" in state["status"]


def test_progress_is_that_of_a_process_that_still_runs(tmp_path: Path) -> None:
    assert read_progress(tmp_path) is None
    write_progress(tmp_path / PROGRESS, [CELL])
    assert read_progress(tmp_path) == [CELL]
    written = json.loads((tmp_path / PROGRESS).read_text(encoding="utf-8"))
    for change in ({"started": 1.0}, {"process": 2**30}, {"running": [{"label": 3}]}, {"process": -1}):
        (tmp_path / PROGRESS).write_text(json.dumps(written | change), encoding="utf-8")
        assert read_progress(tmp_path) is None
    elsewhere = json.dumps(written | {"host": "another", "process": 1})
    (tmp_path / PROGRESS).write_text(elsewhere, encoding="utf-8")
    assert read_progress(tmp_path) == [CELL]
    os.utime(tmp_path / PROGRESS, (1, 1))
    assert read_progress(tmp_path) is None
    remove_progress(tmp_path / PROGRESS)
    assert not (tmp_path / PROGRESS).exists()


def test_a_run_writes_its_progress_while_it_trains_and_removes_it(write_recipe: Any, tmp_path: Path) -> None:
    from adapterzoo.recipe.reading import load_recipe
    from adapterzoo.running import runner
    from adapterzoo.running.reporter import Reporter

    seen, out = [], tmp_path / "out"

    class Spy(Reporter):
        def phase(self, label: str, seed: int, name: str) -> None:
            super().phase(label, seed, name)
            seen.append(LiveFolder(out).state(""))

    recipe = load_recipe(write_recipe("ia3"), ("jobs=0", "evaluate.base=false", "evaluate.shots=0"))
    runner.run(recipe, out, reporter=Spy())
    assert seen[0]["status"] == "A run is under way: 0 of 1 cell done."
    assert "Waiting for the first result" in seen[0]["content"]
    assert {cell["label"] for state in seen for cell in state["running"]} == {"ia3"}
    assert not (out / PROGRESS).exists()


def test_folders_that_are_no_runs_are_refused(tmp_path: Path, adapterzoo: Callable[..., Any]) -> None:
    missing = adapterzoo("view", tmp_path / "missing", "--no-browser")
    assert (missing.exit_code, "there is no such folder" in missing.stderr) == (2, True)
    empty = adapterzoo("view", tmp_path, "--no-browser")
    assert (empty.exit_code, "holds no results" in empty.stderr) == (2, True)
    several(tmp_path)
    with served(tmp_path) as server:
        taken = adapterzoo("view", tmp_path, "--no-browser", "--port", server.server_port)
    assert (taken.exit_code, f"--port {server.server_port}" in taken.stderr) == (2, True)


def test_the_command_prints_the_address_and_ctrl_c_ends_it() -> None:
    command = [sys.executable, "-m", "adapterzoo", "view", "tests/support/frozen/schema-1", "--no-browser"]
    # A shell lets its background jobs ignore Ctrl-C, and the command would inherit that from the tests.
    listens = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=listens)
    try:
        assert process.stdout
        address = re.fullmatch(r"http://127\.0\.0\.1:(\d+)/\n", process.stdout.readline())
        assert address
        connection = HTTPConnection("127.0.0.1", int(address[1]), timeout=30)
        connection.request("GET", "/state.json")
        assert json.loads(connection.getresponse().read())["status"].startswith("No run is under way")
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=30) == 130
        assert "Traceback" not in process.communicate()[1]
    finally:
        process.kill()


def test_the_page_follows_a_run_and_keeps_what_the_reader_chose(browser: Any, tmp_path: Path) -> None:
    plan(tmp_path, "next")
    with served(tmp_path) as server:
        context = browser.new_context()
        context.set_default_timeout(15_000)
        shown, messages = context.new_page(), []
        shown.on("console", lambda message: messages.append(message.text))
        shown.on("pageerror", lambda error: messages.append(str(error)))
        shown.goto(server.url)
        expect(shown.locator("h1")).to_have_text("Waiting for the first result")
        several(tmp_path)
        write_progress(
            tmp_path / PROGRESS, [CELL, {**CELL, "label": "<b>last", "phase": "measuring", "step": 0, "steps": 0}]
        )
        expect(shown.locator("h1")).to_have_text("5 adapters compared on smollm2-135m", timeout=15_000)
        status = shown.locator("#live [role=status]")
        expect(status).to_have_text("A run is under way: 7 of 8 cells done.")
        running = shown.locator("#live tbody tr")
        assert running.first.inner_text().split() == ["next", "training", "12/80", "0.532", "0:42"]
        assert running.first.get_by_role("progressbar").evaluate("bar => bar.value / bar.max") == 0.15
        assert running.nth(1).locator("th").inner_text() == "<b>last"

        shown.get_by_role("button", name="cheap", exact=True).click()
        header(shown, "params").get_by_role("button").click()
        shown.locator("select[name=kind]").select_option("adapters")
        shown.locator(".rerun summary").click()
        shown.locator("input[name=find]").fill("e")
        put(tmp_path, "next", 40, trainable_params=9, **COMMON)
        remove_progress(tmp_path / PROGRESS)
        expect(status).to_have_text("No run is under way: 8 of 8 cells done.", timeout=15_000)
        rows = shown.locator("table.rows").first.locator("tbody tr:not([hidden]) th")
        assert rows.all_inner_texts() == ["next", "tiny", "cheap", "good", "costly", "broke"]
        assert header(shown, "vs cheap").count() == 1
        assert header(shown, "params").get_attribute("aria-sort") == "ascending"
        assert shown.locator(".rerun details[open]").count() == 1
        assert shown.evaluate("document.activeElement.name") == "find"
        assert running.count() == 0
        assert messages == []
    expect(status).to_have_text(re.compile("has ended"), timeout=15_000)
    context.close()
