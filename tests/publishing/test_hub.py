"""What the hub may refuse, and what is never overwritten."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import huggingface_hub
import pytest
from click.testing import Result
from hub_server import Hub, Repository
from publishing_fixtures import TOKEN
from refusals import refused

Adapterzoo = Callable[..., Result]


def main_files(hub: Hub, id: str) -> dict[str, bytes]:
    return hub.repositories[f"models/{id}"].revisions["main"]


def test_the_same_push_again_sends_no_weights(hub: Hub, run_folder: Path, adapterzoo: Adapterzoo) -> None:
    for options in ((), ("--public",)):
        done = adapterzoo("push", run_folder, "-m", "lora", "ada/verbs", *options)
        assert done.exit_code == 0, done.output
    assert "ada/verbs was made private and stays so" in done.stderr
    assert len(hub.uploads.arrived) == len({*hub.uploads.arrived}) == 2  # the adapter and the tokenizer


def test_a_repository_with_something_else_is_not_touched(hub: Hub, run_folder: Path, adapterzoo: Adapterzoo) -> None:
    foreign = {"README.md": b"---\ntags: [mine]\n---\n", "model.safetensors": b"weights", "notes.md": b"mine"}
    hub.repositories["models/ada/mine"] = Repository({"main": dict(foreign)}, private=True)
    refused(adapterzoo("push", run_folder, "-m", "lora", "ada/mine"), "ada/mine: holds something else.", "--overwrite")
    assert main_files(hub, "ada/mine") == foreign
    assert adapterzoo("push", run_folder, "-m", "lora", "ada/mine", "--overwrite").exit_code == 0
    # The old weights are gone: transformers would put the adapter on them.
    assert {*main_files(hub, "ada/mine")} >= {"README.md", "adapter_config.json", "adapter_model.safetensors"}
    assert not {"model.safetensors", "notes.md"} & {*main_files(hub, "ada/mine")}
    # Now it is the repository of lora: another label is something else, the same one is an update.
    refused(adapterzoo("push", run_folder, "-m", "qlora", "ada/mine"), "holds something else")
    assert adapterzoo("push", run_folder, "-m", "lora", "ada/mine").exit_code == 0


@pytest.mark.parametrize("card", [b"---\n[\n---\n", b"---\n- a\n---\n", b"\xff", b""])
def test_a_damaged_card_is_something_else(
    card: bytes, hub: Hub, run_folder: Path, adapterzoo: Adapterzoo, tmp_path: Path
) -> None:
    hub.repositories["models/ada/mine"] = Repository({"main": {"README.md": card}}, private=True)
    refused(adapterzoo("push", run_folder, "-m", "lora", "ada/mine"), "ada/mine: holds something else.")


def test_nothing_private_goes_into_a_public_repository(hub: Hub, run_folder: Path, adapterzoo: Adapterzoo) -> None:
    hub.repositories["models/ada/open"] = Repository({"main": {}}, private=False)
    refused(adapterzoo("push", run_folder, "-m", "lora", "ada/open"), "ada/open: is public.", "--public")
    assert main_files(hub, "ada/open") == {}


@pytest.mark.parametrize(
    ("id", "login", "status", "expected"),
    [
        ("ada/new", "hf_plantedUnknownLogin", None, "the hub does not know this login. Log in again (hf auth login)"),
        ("bob/new", TOKEN, None, "this login may not write there (You don't have the rights to create a model"),
        ("ada/new", TOKEN, 413, "the hub has no room for it"),
        ("ada/new", TOKEN, 501, "the hub has trouble of its own (status 501). Wait. Run the same command again"),
        ("ada/new", TOKEN, 422, "the hub does not accept it (status 422)"),
    ],
)
def test_what_the_hub_refuses_is_explained(
    id: str,
    login: str,
    status: int | None,
    expected: str,
    hub: Hub,
    run_folder: Path,
    adapterzoo: Adapterzoo,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", login)
    hub.uploads.status = status
    done = adapterzoo("--debug", "push", run_folder, "--table", id)
    assert done.exit_code == 2
    assert expected in " ".join(done.stderr.split())
    for secret in (login, "signature-of-the-address"):
        assert secret not in done.output


def test_a_licence_that_the_hub_does_not_know(hub: Hub, run_folder: Path, adapterzoo: Adapterzoo) -> None:
    done = adapterzoo("push", run_folder, "--table", "ada/t", "--license", "my-own")
    refused(done, '"license" must be one of [apache-2.0, mit, cc-by-4.0], not my-own')


def test_no_network_no_login_and_no_permission_to_ask(
    hub: Hub, run_folder: Path, adapterzoo: Adapterzoo, monkeypatch: pytest.MonkeyPatch
) -> None:
    push = ("push", run_folder, "--table", "ada/t")
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    refused(adapterzoo(*push), "ada/t: the hub cannot be reached, or the connection broke. Connect.")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    huggingface_hub.utils.close_session()
    refused(adapterzoo(*push), "HF_HUB_OFFLINE is set, so the hub is not asked. Unset it to push.")
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(huggingface_hub.constants, "HF_TOKEN_PATH", "/nowhere/token")
    refused(adapterzoo(*push), "there is no login for the hub. Log in with a token that may write (hf auth login)")
    assert not hub.uploads.bodies


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("ada/x",), "--method: is missing. Give --method for an adapter, or --table for the comparison."),
        (("-m", "lora", "--table", "ada/x"), "--table: contradicts --method."),
        (("--table", "ada/x", "--merged"), "--merged: has no effect on --table."),
        (("-m", "lora", "ada/x", "--with-predictions"), "--with-predictions: has no effect on --method."),
        (("-m", "lora", "ada/x", "--to", "y"), "--to: is only for --dry-run."),
        (("-m", "lora", "verbs"), "verbs: is no id of a repository. Give OWNER/NAME"),
        (
            ("-m", "lora-scratch", "ada/x"),
            "plain PEFT does not load adapters of lora-scratch, so nobody could use it. Give --merged.",
        ),
        (("-m", "nothing", "ada/x"), "has no such adapter"),
    ],
)
def test_mistakes_are_refused_before_the_hub_is_asked(
    arguments: tuple[str, ...], expected: str, hub: Hub, run_folder: Path, adapterzoo: Adapterzoo
) -> None:
    refused(adapterzoo("push", run_folder, *arguments), expected)
    assert not hub.requests
