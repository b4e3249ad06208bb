"""Check ``adapterzoo methods --where``, and the pages of what methods can do."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from click.testing import Result
from third_party import METHOD

from adapterzoo.cli.where import Term, matching, parse
from adapterzoo.entry_points import BUILT_IN
from adapterzoo.methods.registry import Registry, registry
from adapterzoo.tasks.registry import tasks


def names(adapterzoo: Callable[..., Result], where: str, *more: str) -> set[str]:
    done = adapterzoo("methods", "--where", where, "--json", *more)
    assert done.exit_code == 0, done.stderr
    return {method["name"] for method in json.loads(done.stdout)["methods"]}


def test_all_terms_must_hold(adapterzoo: Callable[..., Result]) -> None:
    both = names(adapterzoo, "merges,nf4")
    assert {"lora", "qlora", "ia3"} <= both
    assert not {"prefix-tuning", "bitfit", "full"} & both
    assert both == names(adapterzoo, "merges") & names(adapterzoo, "nf4")
    assert names(adapterzoo, "!none") == {"qlora"}
    assert names(adapterzoo, "merges, TASK=Classification ,nf4") == both & names(adapterzoo, "SEQ_CLS")
    assert names(adapterzoo, "!merges") | names(adapterzoo, "merges") == names(adapterzoo, "none") | {"qlora"}


def test_the_list_shows_only_what_was_found(adapterzoo: Callable[..., Result]) -> None:
    listed = adapterzoo("methods", "--where", "!none").stdout
    assert "  qlora" in listed
    assert "  lora" not in listed
    assert "1 methods" in listed
    assert "xlora" not in listed


@pytest.mark.parametrize(
    ("where", "expected"),
    [
        ("merge,nf4", ["--where merge", "Did you mean 'merges'?", "shared-prefix", "question_answering"]),
        ("task=clasification", ["--where task=clasification", "Did you mean 'classification'?"]),
        ("task=nf4", ["--where task=nf4: unknown term"]),
        ("!zzz", ["--where !zzz", "The terms are none, int8, nf4"]),
        (" , ", ["name what methods shall do"]),
        ("\x1b[2J", ["unknown term"]),
    ],
)
def test_an_unknown_term_is_refused(where: str, expected: list[str], adapterzoo: Callable[..., Result]) -> None:
    done = adapterzoo("methods", "--where", where)
    assert done.exit_code == 2
    assert "\x1b" not in done.stderr
    for text in expected:
        assert text in done.stderr


def test_what_is_not_known_is_counted_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "third_party_unknown.py").write_text(METHOD.replace("NAME", "mine"), encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    zoo = Registry([EntryPoint("mine", "third_party_unknown", "adapterzoo")])
    assert matching(zoo, parse("nf4", tasks())) == (["mine"], [])
    assert matching(zoo, parse("nf4,compile", tasks())) == ([], ["mine"])
    assert matching(zoo, parse("merges-nf4,compile", tasks())) == ([], []), "it is known that the first does not hold"
    assert parse("!resumes,task=reward", tasks()) == [Term("resumes", False), Term("SEQ_CLS", True)]


@pytest.mark.parametrize("chosen", [("--where", "merges-nf4"), ("--task", "reward"), ("oft",)])
def test_a_table_for_a_document_has_the_methods_that_were_asked_for(
    chosen: tuple[str, ...], adapterzoo: Callable[..., Result]
) -> None:
    described = json.loads(adapterzoo("methods", *chosen, "--json").stdout)
    own = [method for method in described.get("methods", [described]) if method["package"] == BUILT_IN]
    wanted = {method["name"] for method in own if method["unavailable"] is None}
    printed = adapterzoo("methods", *chosen, "--markdown").stdout
    assert {*re.findall(r"^\| `([^`]+)`", printed, re.MULTILINE)} == wanted
    assert wanted < {*registry()}, "the table has not all methods"


def test_a_method_is_shown_with_what_it_can_do_and_why_not(adapterzoo: Callable[..., Result]) -> None:
    shown = " ".join(adapterzoo("methods", "prefix-tuning").stdout.split())
    assert "merges no" in shown
    assert "it has nothing to merge" in shown
    assert "tried with torch" in shown
    assert json.loads(adapterzoo("methods", "lora", "--json").stdout)["capabilities"]["merges"] is True


def test_a_file_of_something_else_is_not_overwritten(adapterzoo: Callable[..., Result], tmp_path: Path) -> None:
    (tmp_path / "notes.json").write_text('{"mine": 1}', encoding="utf-8")
    done = adapterzoo("plugin", "capabilities", "lora", "--to", tmp_path / "notes.json")
    assert done.exit_code == 2
    assert "is no file of capabilities" in done.stderr
    assert (tmp_path / "notes.json").read_text(encoding="utf-8") == '{"mine": 1}'
    assert "name a method, or give --all" in adapterzoo("plugin", "capabilities", "--to", tmp_path / "new.json").stderr
