"""Datasets of the hub, read by the real libraries from a server that answers like the hub.

Each test asks in another process, because the libraries read the environment when they are imported.
"""

from __future__ import annotations

import io
import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hub_server import Hub, Repository, serving

ASK = """
import json, sys, time
from adapterzoo.data.rows import read_rows
from adapterzoo.errors import UserError
from adapterzoo.recipe.schema import DataSection

waits, sleep = [], time.sleep
time.sleep = lambda seconds: (waits.append(seconds), sleep(seconds))
for case in json.load(sys.stdin):
    rows, error = [], ""
    waits.clear()
    split = case.pop("in_split", None)
    try:
        found, _ = read_rows(DataSection(**case), [case["source"]], split)
        rows = [(row.prompt, row.completion, row.place) for row in found]
    except UserError as wrong:
        error = str(wrong)
    except BaseException as wrong:
        error = f"{type(wrong).__name__} was raised: {wrong}"
    print("ANSWER", json.dumps([rows, error, sum(waits)]))
"""


class Answer(NamedTuple):
    rows: list[list[str]]
    error: str
    waited: float
    """seconds that were waited between questions to the hub"""

    @property
    def prompts(self) -> list[str]:
        assert not self.error
        return [prompt for prompt, _, _ in self.rows]


Case = dict[str, Any]


def ask(endpoint: str, home: Path, *cases: Case, **environment: str) -> list[Answer]:
    """Return the answer to each case; one process reads them all."""
    inherited = {name: value for name, value in os.environ.items() if "HF_" not in name and "OFFLINE" not in name}
    changed = {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "NO_PROXY": "*", **environment}
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(
        command, input=json.dumps(cases), env={**inherited, **changed}, capture_output=True, text=True, timeout=120
    )
    answers = [line.removeprefix("ANSWER") for line in done.stdout.splitlines() if line.startswith("ANSWER")]
    assert len(answers) == len(cases), done.stderr
    return [Answer(*json.loads(answer)) for answer in answers]


def closed_endpoint() -> str:
    """Return an address where nothing listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


def jsonl(name: str, count: int) -> bytes:
    return "".join(f'{{"question": "{name} {i}", "answer": "{i}"}}\n' for i in range(count)).encode()


def parquet(name: str, count: int) -> bytes:
    from pandas import DataFrame

    file = io.BytesIO()
    DataFrame([{"question": f"{name} {i}", "answer": str(i)} for i in range(count)]).to_parquet(file)
    return file.getvalue()


LARGE = b'{"question": "q", "answer": "%s"}\n' % (b"a" * 966) * 50_000  # 50 MB
CONFIGS = b"""---
configs:
- {config_name: one, data_files: [{split: train, path: one.jsonl}]}
- {config_name: two, data_files: [{split: train, path: two.jsonl}]}
---
"""
FEATURES = b"""---
dataset_info: {features: [{name: question, dtype: string}, {name: answer, dtype: string}]}
---
"""
ROWS = {"train.jsonl": jsonl("train", 5), "test.jsonl": jsonl("test", 3)}
REPOSITORIES = {
    "o/jsonl": Repository(
        {"main": {"README.md": b"# Rows\n", **ROWS}, "v1": {"train.jsonl": jsonl("v1", 2)}, "v2": dict(ROWS)}
    ),
    "o/parquet": Repository(
        {"main": {f"data/{part}-00000-of-00001.parquet": parquet(part, 3) for part in ("train", "test")}}
    ),
    "o/csv": Repository({"main": {"train.csv": b"question,answer\nwhat?,that\n"}}),
    "o/configs": Repository(
        {"main": {"README.md": CONFIGS, "one.jsonl": jsonl("one", 2), "two.jsonl": jsonl("two", 2)}}
    ),
    "o/large": Repository({"main": {"train.jsonl": LARGE}}),
    "o/gated": Repository({"main": {"README.md": b"# Rows\n", **ROWS}}, gated=("",)),
    # The hub shows the card of a gated dataset to all. The card may name the columns, but no row can be read.
    "o/open-card": Repository({"main": {"README.md": FEATURES, **ROWS}}, gated=(".jsonl",)),
    "o/script": Repository(
        {"main": {"script.py": b"0\n"}, "refs/convert/parquet": {"default/train/0000.parquet": parquet("made", 2)}}
    ),
    "o/other-script": Repository({"main": {"README.md": b"# Rows\n", "make.py": b"import this\n"}}),
    "o/header": Repository({"main": {"train.csv": b"question,answer\n"}}),
    "o/damaged": Repository({"main": {"train.jsonl": b'{"question":\n'}}),
}  # fmt: skip


def case(source: str, in_split: str | None = "train", **settings: Any) -> Case:
    return {"source": f"o/{source}", "in_split": in_split, **settings}


# name -> the case, and the prompts of its rows
GOOD: dict[str, tuple[Case, list[str]]] = {
    "jsonl": (case("jsonl"), [f"train {i}" for i in range(5)]),
    "another split": (case("jsonl", "test"), ["test 0", "test 1", "test 2"]),
    "revision": (case("jsonl", revision="v1"), ["v1 0", "v1 1"]),
    "parquet": (case("parquet", "test"), ["test 0", "test 1", "test 2"]),
    "only split": (case("csv", None), ["what?"]),
    "configuration": (case("configs", config="two"), ["two 0", "two 1"]),
    "made by a script": (case("script", revision="refs/convert/parquet"), ["made 0", "made 1"]),
    "streamed jsonl": (case("jsonl", limit=3), ["train 0", "train 1", "train 2"]),
    "streamed revision": (case("jsonl", revision="v1", limit=3), ["v1 0", "v1 1"]),
    "streamed parquet": (case("parquet", limit=2), ["train 0", "train 1"]),
    "streamed csv": (case("csv", None, limit=2), ["what?"]),
    "streamed configuration": (case("configs", config="one", limit=1), ["one 0"]),
}
# name -> the case, and a part of its error; each case is also tried with streaming
BAD: dict[str, tuple[Case, str]] = {
    "missing": (case("none"), "data.source o/none: is neither a dataset on the hub nor a file or folder here."),
    "missing, with a misleading name": (case("gated-none"), "data.source o/gated-none: is neither a dataset"),
    "gated": (case("gated"), "data.source o/gated: is gated: its owners want to know who downloads it. Accept their "),
    "gated but for its card": (case("open-card"), "data.source o/open-card: is gated"),
    "script": (case("script"), "is a dataset script (.py), which is not run. Give files with its rows, or set"),
    "script of another name": (case("other-script"), "has no data files (csv, json, parquet, ...). If a script"),
    "revision": (case("jsonl", revision="v7"), "data.revision: o/jsonl has no such revision. Its branches and tags: "),
    "split": (case("jsonl", "tset"), "data.split: o/jsonl has no split 'tset'. Did you mean 'test'?"),
    "no split": (case("jsonl", None), "data.split: o/jsonl has several splits (train, test). Choose them"),
    "configuration": (case("configs", config="on"), "data.config: o/configs has no configuration 'on'. Did you mean "),
    "no configuration": (case("configs"), "data.config: o/configs has several configurations. Name one: one, two."),
    "no rows": (case("header"), "o/header: has column names but no rows."),
    "damaged": (case("damaged"), "data.source o/damaged: cannot be loaded: JSON parse error"),
}  # fmt: skip
STREAMED = {f"{name}, streamed": ({**settings, "limit": 2}, expected) for name, (settings, expected) in BAD.items()}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("hf")


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    with serving(REPOSITORIES) as server:
        yield server


@pytest.fixture(scope="module")
def answers(hub: Hub, home: Path) -> dict[str, Answer]:
    """Return the answers to all cases, from one process; what it downloads stays in the cache."""
    cases = {f"good {name}": settings for name, (settings, _) in GOOD.items()}
    cases |= {f"bad {name}": settings for name, (settings, _) in (BAD | STREAMED).items()}
    return dict(zip(cases, ask(hub.endpoint, home, *cases.values()), strict=True))


@pytest.mark.parametrize("name", GOOD)
def test_rows_of_a_hub(name: str, answers: dict[str, Answer]) -> None:
    answer, (settings, prompts) = answers[f"good {name}"], GOOD[name]
    assert answer.prompts == prompts
    where = settings["source"] + (f" [{settings['in_split']}]" if settings["in_split"] else "")
    assert [place for _, _, place in answer.rows] == [f"{where}, row {i + 1}" for i in range(len(prompts))]


@pytest.mark.parametrize("name", BAD | STREAMED)
def test_the_error_says_why_there_are_no_rows_with_a_hint(name: str, answers: dict[str, Answer]) -> None:
    answer, (_, expected) = answers[f"bad {name}"], (BAD | STREAMED)[name]
    assert expected in answer.error
    assert "\n" not in answer.error
    assert answer.waited == 0, answer.waited


def test_only_the_beginning_of_a_large_file_is_downloaded(hub: Hub, tmp_path: Path) -> None:
    """The library reads 10 MB at a time and 5 MB ahead, and the first ones twice."""
    (answer,) = ask(hub.endpoint, tmp_path, case("large", limit=2))
    assert answer.prompts == ["q", "q"]
    assert 0 < hub.fetched("o/large") < 0.7 * len(LARGE)


def test_a_login_that_does_not_help(hub: Hub, tmp_path: Path) -> None:
    (unknown,) = ask(hub.endpoint, tmp_path, case("gated"), HF_TOKEN="hf_unknown")
    assert "o/gated: is gated" in unknown.error
    (expired,) = ask(hub.endpoint, tmp_path, case("jsonl"), HF_TOKEN="bad")
    assert "data.source o/jsonl: cannot be loaded: the hub does not know this login. Log in again" in expired.error


@pytest.mark.parametrize("switch", ["", "HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"])
def test_without_a_hub_the_cache_gives_the_wanted_revision_or_an_error(
    switch: str, answers: dict[str, Answer], home: Path
) -> None:
    """The library alone would give the revision that was cached last, after 24 seconds."""
    commits = {revision: commit for commit, revision in REPOSITORIES["o/jsonl"].commits().items()}
    cases = [
        case("jsonl"),
        case("jsonl", revision="v1"),
        case("jsonl", revision=commits["v1"]),
        case("jsonl", limit=2),
        case("jsonl", revision="v1", limit=1),
        case("jsonl", revision="v2"),
        case("jsonl", "tset"),
        case("configs", config="one"),
        case("large"),
    ]
    offline = ask(closed_endpoint(), home, *cases, **({switch: "1"} if switch else {}))
    main, v1 = [f"train {i}" for i in range(5)], ["v1 0", "v1 1"]
    assert [answer.prompts for answer in offline[:5]] == [main, v1, v1, main[:2], v1[:1]]
    v2, split, config, large = (answer.error for answer in offline[5:])
    assert "data.revision: v2 of o/jsonl is not in the cache, and the hub could not be asked. The cache has " in v2
    assert any(commits[revision] in v2 for revision in ("main", "v1"))
    assert "data.split: o/jsonl has no split 'tset'. Did you mean 'test'?" in split
    assert "data.config: o/configs has no configuration 'one' in the cache, and the hub could not be asked." in config
    if switch:
        assert f"o/large: is not in the cache, and {switch} is set, so the hub was not asked." in large
    else:
        assert "o/large: cannot be loaded: the hub cannot be reached from here. Connect, or" in large
    assert not any(answer.waited for answer in offline)
