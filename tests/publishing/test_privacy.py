"""Local paths are found in every text that is published, and what is no path stays as it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from adapterzoo.errors import UserError
from adapterzoo.publishing.privacy import Scrubber, refuse_private


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("/home/ada/verbs.csv:3: is empty.", "verbs.csv:3: is empty."),
        ("there is no file '/data/secret project/x.csv'", "there is no file 'secret project/x.csv'"),
        ("cannot read file:///srv/ada/rows.jsonl", "cannot read rows.jsonl"),
        (r"C:\Users\ada\verbs.csv: is empty.", "verbs.csv: is empty."),
        (r"\\server\share\ada\verbs.csv", "verbs.csv"),
        ("~ada/models/tiny is damaged", "tiny is damaged"),
        ("see https://example.org/docs/page", "see https://example.org/docs/page"),
        ("model ada/tiny: r = 8 and/or 16", "model ada/tiny: r = 8 and/or 16"),
        (r"target_modules: .*\.layers\.\d+\.q_proj", r"target_modules: .*\.layers\.\d+\.q_proj"),
    ],
)
def test_paths_in_messages(text: str, public: str) -> None:
    assert Scrubber({}).message(text) == public


def test_known_paths_are_replaced_in_every_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    scrubber = Scrubber({"/data/secret project/": "", "/models/tiny": "ada/tiny"})
    assert scrubber.plain("/data/secret project/x.csv") == "x.csv"
    assert scrubber.plain("on /models/tiny, in /home/ada") == "on ada/tiny, in ~"
    assert scrubber.value({"platform": "Linux-6-of-ada", "a": ["/models/tiny", 1]}) == {"a": ["ada/tiny", 1]}


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("README.md", "say /home/ada/notes", "README.md: would hold the local path /home/ada/"),
        ("comparison.json", '{"a": "hf_plantedLogin"}', "comparison.json: would hold a login of the hub"),
        ("tokenizer.json", '{"/home/ada/": 1}', ""),
    ],
)
def test_what_is_private_is_refused_at_the_end(
    name: str, content: str, problem: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("HF_TOKEN", "hf_plantedLogin")
    (tmp_path / name).write_text(content)
    if not problem:
        refuse_private(tmp_path, ())
        return
    with pytest.raises(UserError) as refusal:
        refuse_private(tmp_path, ())
    assert problem in str(refusal.value)
    assert "planted" not in str(refusal.value)
