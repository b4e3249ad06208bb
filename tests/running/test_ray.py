"""Check runs on a Ray cluster whose nodes are processes on this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import Result
from killing import differences

from adapterzoo.machine.rank_processes import FAILED
from adapterzoo.results.probe import write_probe
from adapterzoo.running.on_ray import agent
from adapterzoo.running.on_ray.agent import Order
from adapterzoo.running.on_ray.handler import NodeHandler, packed
from adapterzoo.running.on_ray.process import RayProcess
from adapterzoo.running.on_ray.queue import RayQueue
from adapterzoo.running.reporter import Reporter
from adapterzoo.running.schedule import CellWatch
from adapterzoo.running.work_item import WorkItem

NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20, "include_dashboard": False}
# Notice soon that a node is dead, and start no process before one is needed.
QUICK = {
    "health_check_initial_delay_ms": 500,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 2000,
    "health_check_failure_threshold": 2,
    "prestart_worker_first_driver": False,
}
QUIET = ("--set", "evaluate.base=false", "--set", "evaluate.shots=0")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start a cluster with a cache of its own: a head that does no cells, and two nodes with one core each."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ADAPTERZOO_CACHE", str(tmp_path_factory.mktemp("cache")))
        started = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0, "_system_config": QUICK})
        for _ in range(2):
            started.add_node(**NODE)
        yield started
        started.shutdown()


def test_nodes_with_other_versions_are_refused_before_anything_is_loaded(
    cluster: Any, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from adapterzoo.machine import environment

    monkeypatch.setattr(environment, "versions", lambda names: dict.fromkeys(names, "0.1"))
    ended = adapterzoo("run", write_recipe("lora"), "--ray", cluster.address, "--out", tmp_path / "o")
    assert ended.exit_code == 2
    assert "has torch 2." in ended.stderr
    assert "and this machine torch 0.1." in ended.stderr
    assert not [*tmp_path.glob("o/lora")]


def test_nodes_that_see_the_folder_give_the_results_of_a_local_run(
    cluster: Any, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe = write_recipe("lora, ia3", "tune: {learning_rate: {low: 1e-4, high: 1e-2, trials: 2}}\n")
    assert adapterzoo("run", recipe, "--jobs", "1", "--out", tmp_path / "here").exit_code == 0
    # Nothing in the working directory may take the place of a module.
    (tmp_path / "cwd" / "adapterzoo").mkdir(parents=True)
    (tmp_path / "cwd" / "signal.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path / "cwd")
    done = adapterzoo("run", recipe, "--ray", cluster.address, "--jobs", "1", "--out", tmp_path / "there")
    assert done.exit_code == 0, done.stderr
    assert differences(tmp_path / "here", tmp_path / "there") == []


def test_several_processes_do_a_cell_on_a_node_that_has_room_for_them(
    cluster: Any, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe, two = write_recipe("lora"), (*QUIET, "--set", "train.devices=2", "--set", "threads=1")
    assert adapterzoo("run", recipe, *two, "--out", tmp_path / "here").exit_code == 0
    ended = adapterzoo("run", recipe, *two, "--ray", cluster.address, "--out", tmp_path / "there")
    assert ended.exit_code == 2
    assert "no node of the cluster has 2 CPUs, which each cell needs" in ended.stderr
    large = cluster.add_node(**{**NODE, "num_cpus": 2})
    try:
        done = adapterzoo("run", recipe, *two, "--ray", cluster.address, "--out", tmp_path / "there")
    finally:
        cluster.remove_node(large)
    assert done.exit_code == 0, done.stderr
    assert differences(tmp_path / "here", tmp_path / "there") == []


def test_an_agent_can_read_that_a_rank_has_failed() -> None:
    """All else that a process sends is pickled, because agents do not import what would unpickle it."""

    class Failing:
        worker = SimpleNamespace(results=SimpleNamespace(machine={}))

        def __call__(self, item: int, send: Callable[[Any], None]) -> None:
            send(("step", item))
            send((FAILED, "no memory"))

    handler, sent = NodeHandler(b"", None, None), list[Any]()
    handler._handler = Failing()  # type: ignore[assignment]
    handler(packed(1), sent.append)
    assert sent == [packed(("step", 1)), (FAILED, "no memory")]


def test_a_cell_whose_node_is_lost_goes_on_elsewhere_from_its_checkpoint(
    cluster: Any, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """The nodes see neither the output folder nor the base model."""
    recipe, out = write_recipe("lora, ia3"), tmp_path / "there"
    long = (*QUIET, "--set", "train.save_steps=20", "--set", "train.steps=150")
    assert adapterzoo("run", recipe, *long, "--out", tmp_path / "here").exit_code == 0
    order, step, must_repeat = vars(RayQueue)["_order"].func, CellWatch.step, RayQueue._must_repeat
    steps, removed, again = list[tuple[str, int]](), list[Any](), list[str]()

    def without_folders(queue: RayQueue) -> Order:
        return replace(order(queue), probe=(tmp_path / "nothing", ""), model=("/nowhere", queue.prepared.weights))

    def lose_its_node(watch: CellWatch, number: int, *values: Any) -> None:
        step(watch, number, *values)
        label = watch._cell[0]
        steps.append((label, number))
        if not removed and [*out.glob(f"{label}/*/checkpoints/checkpoint-*")]:
            running = watch._schedule.running  # type: ignore[attr-defined]
            (place,) = [process.opened.node_id for process, item in running.items() if item.cell.label == label]
            removed.extend(node for node in cluster.worker_nodes if node.node_id == place)
            cluster.remove_node(*removed, allow_graceful=False)

    def note_what_is_repeated(queue: RayQueue, process: RayProcess, item: WorkItem) -> bool:
        repeated = must_repeat(queue, process, item)
        if repeated and item.cell:
            again.append(item.cell.label)
            steps.clear()  # after the last message of the lost process, which may come late
        return repeated

    monkeypatch.setattr(RayQueue, "_order", property(without_folders))
    monkeypatch.setattr(CellWatch, "step", lose_its_node)
    monkeypatch.setattr(RayQueue, "_must_repeat", note_what_is_repeated)
    for attempt in range(5):  # on a busy machine a cell may have ended before its last steps are heard of
        out = tmp_path / f"there-{attempt}"
        removed.clear()
        steps.clear()
        done = adapterzoo("run", recipe, *long, "--ray", cluster.address, "--out", out)
        assert done.exit_code == 0, done.stderr
        if again:
            break
        cluster.add_node(**NODE)
    (label,) = again
    assert f"{label}, seed 0 is done elsewhere" in done.stderr
    assert min(number for name, number in steps if name == label) > 20, "it begins after its checkpoint's step"
    assert differences(tmp_path / "here", out) == []


def test_an_agent_that_hears_a_call_twice_does_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray calls it again if the network fails before its answer has arrived."""
    given, started = list[bytes](), list[Any]()

    class Process:
        def __init__(self, *_: Any) -> None:
            started.append(self)
            self.give = given.append

    monkeypatch.setattr(agent, "FreshProcess", Process)
    monkeypatch.setattr(agent, "_node_id", lambda: "here")
    node = agent.Agent()
    order = Order(packages={}, probe=(tmp_path, write_probe(tmp_path)), model=None, threads=1, needs_gpu=False)
    assert node.open(order, b"") == node.open(order, b"")
    assert len(started) == 1
    for item, number in ((b"first", 1), (b"first", 1), (b"second", 2), (b"first", 1)):
        node.give(item, number)
    assert given == [b"first", b"second"]


@pytest.mark.real
def test_a_network_that_fails_for_a_moment_loses_no_call(
    cluster: Any, write_recipe: Callable[..., Path], tmp_path: Path
) -> None:
    """The call that gives a process its cell was once lost: the run waited for the cell for ever."""
    failures = {"CoreWorkerService.grpc_client.PushTask": {"num_failures": -1, "req_failure_prob": 15}}
    command = [sys.executable, "-m", "adapterzoo", "run", write_recipe("lora, ia3"), *QUIET, "--ray", cluster.address]
    done = subprocess.run(
        [*map(str, command), "--out", str(tmp_path / "o")],
        env={**os.environ, "RAY_testing_rpc_failure": json.dumps(failures)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def test_an_item_whose_node_is_lost_is_done_again_at_most_three_times() -> None:
    queue, process = RayQueue.__new__(RayQueue), RayProcess.__new__(RayProcess)
    queue.overtaken, queue.overdue, queue.of_base, queue.repeats = set(), set(), {}, Counter()
    queue.reporter, process.opened, process.lost = Reporter(), None, "it has no power"
    item = WorkItem("none")
    assert [queue._must_repeat(process, item) for _ in range(5)] == [True, True, True, False, False]
    assert process.failure() == "its process on a node was lost: it has no power"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "does not answer: ConnectionRefusedError"),
        ("here", "is no address of a Ray cluster. Give HOST:PORT"),
    ],
)
def test_an_address_at_which_nobody_answers(
    address: str, message: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    pytest.importorskip("ray")
    ended = adapterzoo("run", write_recipe("lora"), "--ray", address, "--out", tmp_path / "o")
    assert ended.exit_code == 2
    assert f"--ray {address}: {message}" in ended.stderr


def test_what_is_said_without_ray_and_with_options_that_do_not_go_together(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    recipe = write_recipe("lora")
    ended = adapterzoo("run", recipe, "--ray", "auto")
    assert ended.exit_code == 2
    assert "needs Ray, which is not installed. Run: pip install 'adapterzoo[ray]'." in ended.stderr
    for options, message in (
        (("--ray", "auto", "--jobs", "0"), "Leave one of them out."),
        (("--ray", "auto", "--plan-only"), "leave --ray out."),
        (("--gpus", "1"), "--gpus is for --ray."),
    ):
        ended = adapterzoo("run", recipe, *options)
        assert ended.exit_code == 2
        assert message in ended.stderr
