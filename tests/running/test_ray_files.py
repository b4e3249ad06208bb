"""Check what is carried between the output folder and a node that does not see it; here, the node is a folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from adapterzoo.prepare.plan import BaseCell
from adapterzoo.results.store import Store
from adapterzoo.running.on_ray import files as ray_files
from adapterzoo.running.on_ray.agent import Agent
from adapterzoo.running.on_ray.files import CellFiles, kept_files
from adapterzoo.training import checkpoints

CELL = "base/seed-0"


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    agent = Agent()
    agent._folder = tmp_path / "node"
    agent.folder.mkdir()
    return agent


@pytest.fixture
def store(tmp_path: Path) -> Store:
    (tmp_path / "out").mkdir()
    return Store(tmp_path / "out")


def cell_files(agent: Agent, store: Store) -> CellFiles:
    return CellFiles(agent, store, BaseCell(label="base", seed=0, quantization="none"))


def make_checkpoint(folder: Path, step: int, settings: str = "{}") -> Path:
    path = folder / CELL / "checkpoints" / f"checkpoint-{step}"
    path.mkdir(parents=True)
    path.parent.joinpath("settings.json").write_text(settings)
    (path / "state").write_bytes(bytes(100))
    checkpoints.complete(path, 1.0)
    return path


def local(store: Store) -> list[str]:
    return sorted(path.name for path in (store.folder / CELL / "checkpoints").iterdir())


def test_a_checkpoint_replaces_older_ones_only_when_it_is_whole(
    agent: Agent, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_files, "PART_BYTES", 30)  # so that files have several parts
    files = cell_files(agent, store)
    make_checkpoint(agent.folder, 2)
    files.fetch_kept(kept_files(agent.folder))
    assert local(store) == ["checkpoint-2", "settings.json"]
    assert checkpoints.find(store.folder / CELL / "checkpoints")
    (make_checkpoint(agent.folder, 4) / "state").unlink()  # the process is just removing it
    files.fetch_kept(kept_files(agent.folder))
    assert checkpoints.find(store.folder / CELL / "checkpoints").step == 2
    make_checkpoint(agent.folder, 6)
    files.fetch_kept(kept_files(agent.folder))
    assert local(store) == ["checkpoint-6", "settings.json"]


def test_checkpoints_of_other_settings_are_not_mixed(agent: Agent, store: Store) -> None:
    make_checkpoint(store.folder, 8, '{"r": 8}')
    make_checkpoint(agent.folder, 2, '{"r": 16}')
    cell_files(agent, store).fetch_kept(kept_files(agent.folder))
    assert local(store) == ["checkpoint-2", "settings.json"]
    assert (store.folder / CELL / "checkpoints" / "settings.json").read_text() == '{"r": 16}'


def test_a_node_gets_the_newest_checkpoint_and_the_trials(
    agent: Agent, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_files, "PART_BYTES", 30)
    make_checkpoint(store.folder, 2)
    make_checkpoint(store.folder, 4)
    (store.folder / "base" / "tuning.journal").write_text("{}\n")
    (agent.folder / "of-an-earlier-cell").mkdir()
    cell_files(agent, store).send()
    assert [path.name for path in agent.folder.iterdir()] == ["base"]
    assert (agent.folder / "base" / "tuning.journal").read_text() == "{}\n"
    assert checkpoints.find(agent.folder / CELL / "checkpoints").step == 4
    assert not (agent.folder / CELL / "checkpoints" / "checkpoint-2").exists()


def test_the_result_comes_with_all_files_and_replaces_old_ones(agent: Agent, store: Store) -> None:
    files = cell_files(agent, store)
    (store.folder / CELL / "adapter").mkdir(parents=True)
    (store.folder / CELL / "adapter" / "old").touch()
    make_checkpoint(store.folder, 2)
    (agent.folder / CELL / "adapter").mkdir(parents=True)
    (agent.folder / CELL / "adapter" / "weights").write_text("new")
    files.fetch_result()
    assert (store.folder / CELL / "adapter" / "old").exists(), "without a result nothing is replaced"
    (agent.folder / CELL / "result.json").write_text(json.dumps({"label": "base"}))
    (agent.folder / CELL / ".predictions.jsonl.new").touch()
    files.fetch_result()
    found = [path.relative_to(store.folder / CELL).as_posix() for path in (store.folder / CELL).rglob("*")]
    assert sorted(found) == ["adapter", "adapter/weights", "result.json"]


@pytest.mark.parametrize("name", ["../out", "/etc/passwd", "base/../../out"])
def test_paths_that_lead_out_of_the_folder_are_refused(agent: Agent, name: str) -> None:
    for use in (agent.files, lambda name: agent.read(name, 0), lambda name: agent.write(name, 0, b"")):
        with pytest.raises(ValueError, match="outside"):
            use(name)
