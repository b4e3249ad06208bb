"""Check that workers share the cells of a planned run: none is done twice, none is lost, and no result changes."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from filelock import FileLock
from killing import differences
from ruamel.yaml import YAML
from transformers import TrainerCallback

from adapterzoo.cli import main
from adapterzoo.machine.processes import Process
from adapterzoo.methods.registry import registry
from adapterzoo.results import claim_files, claims
from adapterzoo.results.claim_files import ClaimFolder, live_claim
from adapterzoo.results.claims import SharedClaims
from adapterzoo.results.reading import read_result
from adapterzoo.results.store import LOCK
from adapterzoo.running import worker as running_worker

LONG_SECONDS = 90.0
PATIENCE = 4
TUNE = "jobs: 1\ntune: {learning_rate: {low: 1.0e-4, high: 1.0e-2, trials: 2}}\nseeds: [0, 1]\n"


class Worker:
    """A worker in a process of its own, on a "machine" of its own."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.process = Process(lambda send: work(send, folder, options), 1)

    def end(self) -> int:
        return self.process.wait()

    @property
    def trained(self) -> set[str]:
        """Name the cells that this worker has begun to train."""
        return set(re.findall(r"\] (.*): training", self.process.output()))


def work(send: Callable[[Any], None], folder: Path, options: tuple[str, ...]) -> None:
    claim_files._machine = lambda: f"machine {os.getpid()}"
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        main(["work", str(folder), *options])
    except SystemExit as end:
        sys.stdout.flush()
        os._exit(int(end.code or 0))


def until(what: Callable[[], Any]) -> None:
    end = time.monotonic() + LONG_SECONDS
    while not what():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def workers() -> Iterator[list[Worker]]:
    started: list[Worker] = []
    yield started
    for worker in started:
        if worker.process.alive:
            worker.process.kill()


def test_workers_share_the_cells_and_a_killed_one_loses_nothing(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, workers: list[Worker],
) -> None:  # fmt: skip
    recipe = write_recipe("lora, ia3", TUNE)
    saving = ("--set", "train.save_steps=2")
    assert adapterzoo("run", recipe, *saving, "--out", tmp_path / "alone").exit_code == 0
    planned = adapterzoo("run", recipe, *saving, "--out", tmp_path / "shared", "--plan-only")
    assert planned.exit_code == 0
    assert "adapterzoo work" in planned.stdout
    assert not [*tmp_path.glob("shared/*/seed-*")]

    with monkeypatch.context() as patch:
        sleep_in_training(patch, "ia3", 60)
        workers.append(Worker(tmp_path / "shared", f"--patience={PATIENCE}"))
        until(lambda: [*tmp_path.glob("shared/.claims/ia3.seed-*")])
    workers += [Worker(tmp_path / "shared", f"--patience={PATIENCE}") for _ in range(2)]
    until(lambda: any(worker.trained for worker in workers[1:]))
    refused = adapterzoo("run", recipe, *saving, "--out", tmp_path / "shared")
    assert refused.exit_code == 2
    assert "workers are at work there" in refused.stderr
    workers[0].process.kill()  # with SIGKILL, so that its claim stays
    assert [worker.end() for worker in workers[1:]] == [0, 0], workers[1].process.output()
    first, second, third = (worker.trained for worker in workers)
    assert not second & third
    assert (first & (second | third)) <= {"ia3", "ia3 (seed 1)"}
    assert differences(tmp_path / "alone", tmp_path / "shared") == []


def sleep_in_training(patch: pytest.MonkeyPatch, name: str, seconds: float) -> None:
    class Slow(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            time.sleep(seconds)

    patch.setattr(type(registry()[name]), "callbacks", lambda *_: [Slow()])


def test_a_worker_that_was_stopped_for_too_long_gives_its_cell_up(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, workers: list[Worker],
) -> None:  # fmt: skip
    recipe, quiet = write_recipe("ia3"), ("--set", "evaluate.base=false", "--set", "evaluate.shots=0")
    assert adapterzoo("run", recipe, *quiet, "--out", tmp_path / "alone").exit_code == 0
    assert adapterzoo("run", recipe, *quiet, "--out", tmp_path / "o", "--plan-only").exit_code == 0
    with monkeypatch.context() as patch:
        sleep_in_training(patch, "ia3", 5)
        workers.append(Worker(tmp_path / "o", f"--patience={PATIENCE}"))
        until(lambda: [*tmp_path.glob("o/ia3/seed-0/checkpoints")])
    os.killpg(workers[0].process.process_id, signal.SIGSTOP)
    workers.append(Worker(tmp_path / "o", f"--patience={PATIENCE}"))
    until(lambda: (tmp_path / "o" / ".claims" / "ia3.seed-0.2").exists())
    os.killpg(workers[0].process.process_id, signal.SIGCONT)
    assert [worker.end() for worker in workers] == [0, 0]
    assert "already done" in workers[0].process.output()
    assert differences(tmp_path / "alone", tmp_path / "o") == []


def test_a_worker_that_wakes_up_after_the_end_leaves_all_results_as_they_are(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, workers: list[Worker],
) -> None:  # fmt: skip
    """A worker with ``jobs: 0``, which looks at its claim in its own process, wrote that its cell had failed."""
    recipe, quiet = write_recipe("ia3"), ("--set", "evaluate.base=false", "--set", "evaluate.shots=0")
    assert adapterzoo("run", recipe, *quiet, "--out", tmp_path / "o", "--plan-only").exit_code == 0
    with monkeypatch.context() as patch:
        sleep_in_training(patch, "ia3", 1)
        workers.append(Worker(tmp_path / "o", f"--patience={PATIENCE}", "--jobs=0"))
        until(lambda: [*tmp_path.glob("o/ia3/seed-0/checkpoints")])
    os.killpg(workers[0].process.process_id, signal.SIGSTOP)
    assert adapterzoo("work", tmp_path / "o", "--patience", PATIENCE, "--jobs=0").exit_code == 0
    done = (tmp_path / "o" / "ia3" / "seed-0" / "result.json").read_bytes()
    assert not (tmp_path / "o" / ".claims").exists()
    os.killpg(workers[0].process.process_id, signal.SIGCONT)
    assert workers[0].end() == 0
    assert "already done" in workers[0].process.output()
    assert (tmp_path / "o" / "ia3" / "seed-0" / "result.json").read_bytes() == done
    assert not (tmp_path / "o" / "ia3" / "seed-0" / "traceback.txt").exists()


@pytest.mark.parametrize(("jobs", "methods", "late"), [(0, "ia3", "ia3"), (1, "ia3, qlora", "ia3")])
def test_a_worker_that_was_asleep_while_it_loaded_a_model_leaves_the_results_of_the_others(
    jobs: int, methods: str, late: str, write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result],
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: list[Worker],
) -> None:  # fmt: skip
    """It removed them, because it was about to begin, and noticed only later that it had lost the cell."""
    recipe, quiet = write_recipe(methods), ("--set", "evaluate.base=false", "--set", "evaluate.shots=0")
    assert adapterzoo("run", recipe, *quiet, "--out", tmp_path / "o", "--plan-only").exit_code == 0
    load, cell = running_worker.Worker.load, tmp_path / "o" / late / "seed-0"
    with monkeypatch.context() as patch:
        patch.setattr(running_worker.Worker, "load", lambda *given: (time.sleep(1), load(*given))[1])
        workers.append(Worker(tmp_path / "o", f"--patience={PATIENCE}", f"--jobs={jobs}", "--no-wait"))
        until(lambda: (tmp_path / "o" / ".claims" / f"{late}.seed-0.1").exists())
    os.killpg(workers[0].process.process_id, signal.SIGSTOP)
    assert adapterzoo("work", tmp_path / "o", "--patience", PATIENCE, "--jobs=0").exit_code == 0
    files = {path: path.read_bytes() for path in cell.rglob("*") if path.is_file()}
    assert cell / "result.json" in files
    os.killpg(workers[0].process.process_id, signal.SIGCONT)
    assert workers[0].end() == 0, workers[0].process.output()
    assert {path: path.read_bytes() for path in cell.rglob("*") if path.is_file()} == files


def test_failed_cells_are_left_to_the_next_plan(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe, out = write_recipe("lora, ia3", "jobs: 0\n"), tmp_path / "o"
    assert adapterzoo("run", recipe, "--out", out, "--plan-only").exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(type(registry()["ia3"]), "wrap", lambda *_: 1 / 0)
        for _ in range(2):
            ended = adapterzoo("work", out)
            assert ended.exit_code == 1
            assert "4 of 4 cells done, 1 failed" in ended.stdout
    assert adapterzoo("work", out).exit_code == 1
    planned = adapterzoo("run", recipe, "--out", out, "--plan-only")
    assert "it failed before" in planned.stdout
    assert "reuse: 3" in planned.stdout
    ended = adapterzoo("work", out)
    assert ended.exit_code == 0
    assert "4 of 4 cells done." in ended.stdout


def test_workers_leave_the_checkpoints_of_a_cell_that_failed_to_the_next_plan(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    recipe, out = write_recipe("ia3", "jobs: 1\n"), tmp_path / "o"
    plan = ("run", recipe, "--set", "train.save_steps=2", "--out", out, "--plan-only")
    assert adapterzoo(*plan).exit_code == 0
    with monkeypatch.context() as patch:
        die_in_training(patch, "ia3", 5)
        assert "3 of 3 cells done, 1 failed" in adapterzoo("work", out).stdout
    assert adapterzoo("work", out).exit_code == 1
    assert "from step 4 of 6" in adapterzoo(*plan).stdout


def die_in_training(patch: pytest.MonkeyPatch, name: str, step: int) -> None:
    class Dies(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            if state.global_step == step:
                os.kill(os.getpid(), signal.SIGKILL)

    patch.setattr(type(registry()[name]), "callbacks", lambda *_: [Dies()])


def test_a_worker_needs_a_plan_and_the_rows_of_the_plan(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path, tiny_data: Path
) -> None:
    refused = adapterzoo("work", tmp_path)
    assert refused.exit_code == 2
    assert "holds no plan" in refused.stderr
    source = tmp_path / "verbs.csv"
    shutil.copy(tiny_data, source)
    recipe, out = write_recipe("ia3", "jobs: 0\n", source=str(source)), tmp_path / "o"
    assert adapterzoo("run", recipe, "--out", out, "--plan-only").exit_code == 0
    elsewhere = source.rename(tmp_path / "moved.csv")
    assert adapterzoo("work", out).exit_code == 2
    changed = tmp_path / "changed.csv"
    changed.write_text(elsewhere.read_text().replace("walked", "wokled"))
    refused = adapterzoo("work", out, "--set", f"data.source={changed}")
    assert refused.exit_code == 2
    assert "the data rows differ" in refused.stderr
    refused = adapterzoo("work", out, "--set", "methods=[{name: lora, label: ia3}]", "--set", "train.learning_rate=1")
    assert refused.exit_code == 2
    assert "the plan says methods, the same for all workers" in refused.stderr
    assert "the plan says train.learning_rate, the same for all workers" in refused.stderr
    assert adapterzoo("work", out, "--set", f"data.source={elsewhere}").exit_code == 0


def test_a_worker_is_refused_while_a_run_has_the_folder(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe, out = write_recipe("ia3"), tmp_path / "o"
    assert adapterzoo("run", recipe, "--out", out, "--plan-only").exit_code == 0
    with FileLock(out / LOCK):
        refused = adapterzoo("work", out)
    assert refused.exit_code == 2
    assert "a run is writing there" in refused.stderr


MACHINES = Path("docs/machines")


def test_the_script_for_slurm_starts_a_worker_that_a_signal_reaches(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe, out = write_recipe("ia3", steps="100000"), tmp_path / "o"
    assert adapterzoo("run", recipe, "--out", out, "--plan-only").exit_code == 0
    script, scripts = MACHINES / "slurm.sh", Path(sys.executable).parent
    path = {"PATH": f"{scripts}:{os.environ['PATH']}"}
    with subprocess.Popen(["bash", script, out], env=os.environ | path, stderr=subprocess.PIPE, text=True) as worker:
        assert worker.stderr is not None
        assert any("] ia3: training" in line for line in worker.stderr)
        worker.terminate()
        said = worker.stderr.read()
    assert "stopping" in said
    assert [*out.glob("ia3/seed-0/checkpoints/checkpoint-*")], said
    assert not [*out.glob(".claims/ia3*")]


def test_the_script_for_submitit_starts_workers(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe, out = write_recipe("ia3, lora"), tmp_path / "o"
    assert adapterzoo("run", recipe, "--out", out, "--plan-only").exit_code == 0
    path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    command = [sys.executable, MACHINES / "submitit_workers.py", out, "--cluster", "local", "--workers", "2"]
    ended = subprocess.run(command, env=os.environ | path, capture_output=True, text=True, check=True)
    assert "Workers that have ended: 2, with an error: 0." in ended.stdout
    assert len([*out.glob("*/seed-*/result.json")]) == 4
    command[2:] = [tmp_path / "no-plan", "--cluster", "local", "--workers", "1"]
    ended = subprocess.run(command, env=os.environ | path, capture_output=True, text=True)
    assert (ended.returncode, "Workers that have ended: 1, with an error: 1." in ended.stdout) == (1, True)


def test_the_other_files_start_the_worker() -> None:
    job = YAML(typ="safe").load(MACHINES / "kubernetes.yaml")
    assert job["spec"]["template"]["spec"]["containers"][0]["command"] == ["adapterzoo", "work", "/shared/runs/my"]
    assert YAML(typ="safe").load(MACHINES / "skypilot.yaml")["run"] == "adapterzoo work /shared/runs/my"


def test_a_claim_is_taken_once_and_passes_on_when_its_owner_gives_no_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    cell = ("lora", 0)
    first, second = SharedClaims(ClaimFolder(tmp_path), 600), SharedClaims(ClaimFolder(tmp_path), 600)
    assert first.take(cell)
    assert not first.take(cell)
    assert not second.take(cell)
    assert second.others() == {cell}
    assert not first.others()
    assert not first.lost()
    now[0] += 601
    os.utime(tmp_path / ".claims" / "lora.seed-0.1")  # a sign of life
    assert not second.free(cell)
    now[0] += 601
    assert second.take(cell)
    now[0] += 2
    assert first.lost() == {cell}
    assert not second.lost()
    first.close()
    assert (tmp_path / ".claims" / "lora.seed-0.2").exists()
    second.close()
    now[0] += 2
    assert live_claim(tmp_path) is not None  # the first one, which nobody removed, counts for a while


def test_a_worker_that_was_told_to_be_patient_gives_signs_of_life_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another one that was not told to has to wait all the same, and so has a run."""
    now = [0.0]
    monkeypatch.setattr(claims.time, "monotonic", lambda: now[0])
    cell, path = ("lora", 0), tmp_path / ".claims" / "lora.seed-0.1"
    patient, other = SharedClaims(ClaimFolder(tmp_path), 3600), SharedClaims(ClaimFolder(tmp_path), 5)
    assert patient.take(cell)
    assert not other.free(cell)
    now[0] += 3599
    assert not other.take(cell)
    os.utime(path, (path.stat().st_mtime - 3500,) * 2)
    assert live_claim(tmp_path) == path
    now[0] += 3601
    assert not other.free(cell)  # it was changed
    now[0] += 3601
    assert other.take(cell)


def test_a_worker_of_this_machine_that_has_ended_is_known_at_once(tmp_path: Path) -> None:
    process = Process(lambda send: (send(SharedClaims(ClaimFolder(tmp_path)).take(("lora", 0))), os._exit(0)), 1)
    process.wait()
    assert list(process.messages()) == [True]
    assert live_claim(tmp_path) is None
    assert SharedClaims(ClaimFolder(tmp_path)).take(("lora", 0))


def test_the_first_worker_chooses_the_number_of_threads(tmp_path: Path) -> None:
    assert [SharedClaims(ClaimFolder(tmp_path)).agreed_threads(number) for number in (2, 1)] == [2, 2]


def test_a_run_goes_on_with_the_number_of_threads_of_workers_that_were_stopped(
    write_recipe: Callable[..., Path], adapterzoo: Callable[..., Result], tmp_path: Path
) -> None:
    recipe, out = write_recipe("ia3", "jobs: 0\n"), tmp_path / "o"
    assert adapterzoo("run", recipe, "--out", out, "--plan-only").exit_code == 0
    assert SharedClaims(ClaimFolder(out)).agreed_threads(2) == 2  # as a worker does before its first cell
    assert adapterzoo("run", recipe, "--out", out, "--plan-only").exit_code == 0
    assert adapterzoo("run", recipe, "--out", out).exit_code == 0
    results = map(read_result, out.glob("*/seed-*/result.json"))
    assert [result.environment["threads"] for result in results] == [2, 2, 2]


def test_workers_agree_on_threads_on_a_file_system_without_links(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There, a file is seen before its text: the worker that was second ended with an error of int()."""

    def no_link(*_: object) -> None:
        raise PermissionError(1, "no links")

    monkeypatch.setattr(os, "link", no_link)
    folder, path = ClaimFolder(tmp_path), tmp_path / ".claims" / "threads"
    assert SharedClaims(folder).agreed_threads(3) == 3
    path.write_text("")
    writing = threading.Timer(0.2, path.write_text, ["7"])
    writing.start()
    assert SharedClaims(folder).agreed_threads(2) == 7
    writing.join()
    path.write_text("")
    monkeypatch.setattr(claim_files, "WRITING_SECONDS", 0.1)
    assert SharedClaims(folder).agreed_threads(2) == 2  # the first worker was killed before it wrote the text
