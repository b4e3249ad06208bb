"""Push adapters to a local hub, and load them from there by the code in their cards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
from click.testing import Result
from hub_server import Hub
from huggingface_hub import ModelCard
from publishing_fixtures import TOKEN

from adapterzoo.publishing.usage import QUESTION

Adapterzoo = Callable[..., Result]
BASE = ("--base-id", "ada/base")
CODE = re.compile(r"^(`{3,})python\n(.*?)^\1$", re.MULTILINE | re.DOTALL)


def content(hub: Hub, id: str) -> dict[str, bytes]:
    """Return the files of a model on the hub."""
    return hub.repositories[f"models/{id}"].revisions["main"]


def card(hub: Hub, id: str) -> ModelCard:
    return ModelCard(content(hub, id)["README.md"].decode())


def run_code(code: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the code of a card, which imports all that it uses; return what it prints."""
    capsys.readouterr()
    exec(compile(code, "README.md", "exec"), {})  # noqa: S102  # adapterzoo has just written it
    return capsys.readouterr().out.strip()


def test_the_code_in_the_cards_answers_as_generate_does(
    hub: Hub, run_folder: Path, adapterzoo: Adapterzoo, capsys: pytest.CaptureFixture[str]
) -> None:
    """A LoRA adapter, one on a base model in nf4, and a merged model; the code is taken from their cards.

    The base model on the hub comes with a penalty for repetition, as Qwen does, with which no score was measured.
    """
    files = hub.repositories["models/ada/base"].revisions["main"]
    own = {"repetition_penalty": 9.0, "do_sample": True, "top_k": 20}
    files["generation_config.json"] = json.dumps(json.loads(files["generation_config.json"]) | own).encode()
    codes = []
    for label, id, more in (("lora", "ada/a", BASE), ("qlora", "ada/b", BASE), ("lora", "ada/c", ("--merged",))):
        done = adapterzoo("push", run_folder, "-m", label, id, *more)
        assert done.exit_code == 0, done.output
        assert done.stdout == f"{hub.endpoint}/{id}\n"
        assert hub.repositories[f"models/{id}"].private
        codes += [code for _, code in CODE.findall(card(hub, id).text)]
    assert ["BitsAndBytesConfig" in code for code in codes] == [False, True, False]
    assert ["PeftModel" in code for code in codes] == [True, True, False]
    question = "walk"
    answers = [run_code(code.replace(QUESTION, question).replace("=256", "=6"), capsys) for code in codes]
    options = ("--prompt", question, "--max-new-tokens", "6")
    expected = [
        json.loads(adapterzoo("generate", run_folder, "-m", label, *options, "--format", "json").stdout)[0]["answers"]
        for label in ("lora", "qlora")
    ]
    assert answers == [expected[0]["lora"], expected[1]["qlora"], expected[0]["lora"]]
    assert len(set(answers)) == 2


def test_the_card_says_what_the_run_says(hub: Hub, run_folder: Path, adapterzoo: Adapterzoo) -> None:
    done = adapterzoo("push", run_folder, "-m", "qlora", "ada/verbs", *BASE, "--licence", "mit", "--public")
    assert done.exit_code == 0, done.output
    assert not hub.repositories["models/ada/verbs"].private
    found = card(hub, "ada/verbs")
    data = found.data.to_dict()
    assert data["base_model"] == "ada/base"
    assert data["library_name"] == "peft"
    assert data["license"] == "mit"
    assert {"adapterzoo", "qlora"} <= {*data["tags"]}
    assert "datasets" not in data
    result = json.loads((run_folder / "qlora/seed-0/result.json").read_text())
    assert {score.metric_type: score.metric_value for score in found.data.eval_results} == result["metrics"]
    (source,) = run_folder.parent.glob("*.csv")
    assert sha256(source.read_bytes()).hexdigest() in found.text
    for label in ("lora", "qlora", "lora-scratch"):
        assert f"\n| {label} |" in found.text
    assert "tied" in found.text
    assert result["environment"]["packages"]["peft"] in found.text
    configuration = json.loads(content(hub, "ada/verbs")["adapter_config.json"])
    assert configuration["base_model_name_or_path"] == "ada/base"


def test_without_the_users_word_no_licence_and_no_base_model_are_named(
    hub: Hub, run_folder: Path, adapterzoo: Adapterzoo
) -> None:
    done = adapterzoo("push", run_folder, "-m", "lora", "ada/verbs")
    assert "--licence gives one" in done.stderr
    assert "--base-id gives its hub id" in done.stderr
    data = card(hub, "ada/verbs").data.to_dict()
    assert "license" not in data
    assert "base_model" not in data


def test_markup_in_the_names_of_files_and_in_the_recipe_is_inert(
    run_folder: Path, adapterzoo: Adapterzoo, tmp_path: Path
) -> None:
    assert adapterzoo("push", run_folder, "-m", "lora", "a/b", "--dry-run", "--to", tmp_path / "x").exit_code == 0
    text = ModelCard.load(tmp_path / "x/README.md").text
    outside = re.sub(r"^(`{3,})\w+\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    assert "&lt;img src=x> \\[a](javascript:b) \\`c\\` \\|d.csv" in outside
    assert "<img" not in outside
    assert "Say ```it```" not in outside
    assert "Say ```it```" in text


def test_nothing_private_is_sent_or_printed(
    hub: Hub, run_folder: Path, adapterzoo: Adapterzoo, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Canaries: the login, the home folder, which holds the run and its data, and every absolute path."""
    home = str(run_folder.parent)
    monkeypatch.setenv("HOME", home)
    printed = [
        adapterzoo("--debug", "push", run_folder, *arguments, *more)
        for arguments in (("-m", "lora", "ada/a"), ("--table", "ada/t", "--with-predictions"), ("-m", "qlora", "bob/q"))
        for more in ((), ("--licence", "my-own"))
    ]
    assert [done.exit_code for done in printed] == [0, 2, 0, 2, 2, 2]
    assert (
        home.encode() in (run_folder / "lora/seed-0/adapter/adapter_config.json").read_bytes()
        or str(tiny_model).encode() in (run_folder / "lora/seed-0/adapter/adapter_config.json").read_bytes()
    )
    sent = b"\n".join(hub.uploads.bodies)
    assert len(hub.uploads.arrived) > 1
    canaries = [home, Path(home).name, str(tiny_model), tiny_model.parent.name, str(Path.cwd()), TOKEN]
    files = [text for r in hub.repositories.values() for text in r.revisions["main"].values()]
    for canary in canaries:
        assert canary.encode() not in sent, canary
        assert not [text for text in files if canary.encode() in text], canary
    for done in printed:
        assert TOKEN not in done.output
        assert "signature-of-the-address" not in done.output


def test_files_that_have_changed_since_the_run_are_not_hashed(
    run_folder: Path, adapterzoo: Adapterzoo, tmp_path: Path
) -> None:
    (source,) = run_folder.parent.glob("*.csv")
    before = source.read_bytes()
    push = ("push", run_folder, "-m", "lora", "a/b", "--dry-run", "--to")
    try:
        source.write_bytes(before + b"swim,swam\n")
        changed = adapterzoo(*push, tmp_path / "changed")
        source.unlink()
        gone = adapterzoo(*push, tmp_path / "gone")
    finally:
        source.write_bytes(before)
    assert "their rows have changed since the run" in changed.stderr
    assert "they cannot be read any more" in gone.stderr
    for name in ("changed", "gone"):
        text = (tmp_path / name / "README.md").read_text()
        assert "d.csv | not known |" in text
        assert sha256(before).hexdigest() not in text
        # The hashes of the rows are those of the run.
        assert json.loads((run_folder / "lora/seed-0/result.json").read_text())["fingerprints"]["test"] in text
