"""One run whose adapters and comparison are pushed, and a local hub that takes them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import huggingface_hub
import pytest
from click.testing import CliRunner
from hub_server import Hub, Repository, serving
from tiny import RECIPE, make_data

TOKEN = "hf_plantedLoginOfAda"
SETS = ("train.steps=12", "train.learning_rate=1e-2", "evaluate.base=false", "evaluate.shots=0")


@pytest.fixture(scope="package")
def run_folder(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the output folder of a run with two methods, whose data file has a name full of markup."""
    from adapterzoo.cli import main

    home = tmp_path_factory.mktemp("home-of-ada")
    data = make_data(home / "<img src=x> [a](javascript:b) `c` |d.csv")
    text = RECIPE.format(model=tiny_model, data=f'"{data}"', methods="lora, qlora, lora-scratch")
    text = text.replace("data:\n", 'data:\n  system: "Say ```it``` in the past."\n')
    (home / "recipe.yaml").write_text(text)
    sets = [part for setting in SETS for part in ("--set", setting)]
    out = home / "out"
    command = ["run", str(home / "recipe.yaml"), *sets, "--jobs", "0", "--out", str(out)]
    done = CliRunner().invoke(main, command, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return out


@pytest.fixture
def hub(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a hub that has the tiny model as ``ada/base`` and lets ada write; this process is logged in as ada."""
    base = {path.name: path.read_bytes() for path in tiny_model.iterdir()}
    with serving({"models/ada/base": Repository({"main": base})}) as hub:
        hub.uploads.owners[TOKEN] = "ada"
        constants = huggingface_hub.constants
        template = f"{hub.endpoint}/{{repo_id}}/resolve/{{revision}}/{{filename}}"
        for name, value in {
            "ENDPOINT": hub.endpoint,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
            "HF_HUB_DISABLE_XET": True,
            "HF_HUB_CACHE": str(tmp_path / "hub-cache"),
        }.items():
            monkeypatch.setattr(constants, name, value)
        monkeypatch.setattr(huggingface_hub.hf_api.api, "endpoint", hub.endpoint)  # what its functions use
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setenv("ADAPTERZOO_CACHE", str(tmp_path / "cache"))
        huggingface_hub.utils.close_session()  # its session was made for a machine without a network
        yield hub
        huggingface_hub.utils.close_session()
