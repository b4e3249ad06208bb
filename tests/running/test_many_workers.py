"""Check in virtual time that many workers share many cells: none is lost, and none is done twice without a reason."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest
from cluster import Cluster, Settings

from adapterzoo.machine.stopping import StoppedError
from adapterzoo.results.claim_files import ClaimFolder, claim_path, remove_claims
from adapterzoo.results.claims import SharedClaims
from adapterzoo.results.reading import read_result
from adapterzoo.results.result import Result
from adapterzoo.results.store import Store

CELL = ("lora", 0)


def simulated(folder: Path, **settings: object) -> Cluster:
    cluster = Cluster(folder, Settings(**settings))  # type: ignore[arg-type]
    cluster.run()
    return cluster


@pytest.mark.parametrize("late", [0.0, 30.0, 60.0])
def test_no_cell_is_lost_or_done_twice_without_a_reason(tmp_path: Path, late: float) -> None:
    """Machines die, sleep and are stopped, and they see the shared folder as it was some time ago."""
    cluster = simulated(tmp_path, cells=48, workers=12, dying=3, sleeping=2, stopped=2, late=late, slow=0.0)
    assert cluster.results.keys() == {cell.key for cell in cluster.cells}
    assert cluster.failed == []
    assert cluster.repeated_without_reason() == []
    assert any(machine.died for machine in cluster.machines)


def test_workers_that_tune_wait_for_the_first_seed_of_a_label(tmp_path: Path) -> None:
    cluster = simulated(tmp_path, cells=16, labels=4, workers=6, dying=2, tuned=True, slow=0.0)
    assert len(cluster.results) == 16
    assert cluster.failed == []
    for label in {cell.label for cell in cluster.cells}:
        begun = sorted((attempt.begun, attempt.cell) for attempt in cluster.attempts if attempt.cell[0] == label)
        first = next(cell for _, cell in begun)
        # All cells of the label that began before the first one was done were other attempts at the same cell.
        done = min(written for written, _ in cluster.results[first])
        assert {cell for when, cell in begun if when < done} == {first}


def test_more_cells_and_workers_do_not_need_many_more_operations_on_files(tmp_path: Path) -> None:
    """Each worker once looked at the claims of all cells every second: 52,000 operations for each of 100 cells."""
    few, many = (
        simulated(tmp_path / str(cells), cells=cells, workers=cells // 12, slow=0.0).operations_per_cell()
        for cells in (48, 192)
    )
    assert few < 200
    assert many < 300


def test_a_cell_that_was_just_overtaken_is_known_when_it_is_asked_for(tmp_path: Path) -> None:
    suspended, second = (SharedClaims(ClaimFolder(tmp_path), 0.01) for _ in range(2))
    suspended._closing.set()  # so that it gives no sign of life
    assert suspended.take(CELL)
    assert not second.free(CELL)
    while not second.free(CELL):
        pass
    suspended._patience = 600  # so that it looks seldom
    assert not suspended.lost()
    assert second.take(CELL)
    assert not suspended.lost()  # it looked just now
    assert suspended.lost(at_once=True) == {CELL}
    for claims in (suspended, second):
        claims.close()


def test_a_cell_whose_claims_were_removed_is_lost(tmp_path: Path) -> None:
    """They are when all cells are done: who was suspended until then must not write a result in place of a good one."""
    claims, store = SharedClaims(ClaimFolder(tmp_path)), Store(tmp_path)
    assert claims.take(CELL)
    store.claim = claims.claim_of(CELL)
    assert not claims.lost(at_once=True)
    remove_claims(tmp_path)
    assert claims.lost(at_once=True) == {CELL}
    with pytest.raises(StoppedError):
        store.write(Result("lora", "lora", 0, "none", status="failed"))
    assert not [*tmp_path.iterdir()]
    claims.close()


def test_attempts_are_compared(tmp_path: Path) -> None:
    """The check above would find a cell that two healthy workers did."""
    cluster = simulated(tmp_path, cells=2, workers=1)
    (first, second) = cluster.attempts
    second.cell = first.cell
    assert cluster.repeated_without_reason() == [first.cell]


def test_only_one_worker_tidies_up(tmp_path: Path) -> None:
    """Two that ended at the same time once wrote the same temporary file."""
    (tmp_path / ".claims").mkdir()
    assert [ClaimFolder(tmp_path).is_first("ended") for _ in range(2)] == [True, False]
    remove_claims(tmp_path)
    assert not ClaimFolder(tmp_path).is_first("ended")
    assert not (tmp_path / ".claims").exists()


def test_a_worker_that_wakes_up_in_the_middle_of_writing_damages_no_result(tmp_path: Path) -> None:
    result = Result("lora", "lora", 0, "none")
    asleep, other = Store(tmp_path), Store(tmp_path)
    asleep.claim, other.claim = (claim_path(tmp_path / ".claims", CELL, number) for number in (1, 2))
    files = ClaimFolder(tmp_path)
    assert files.create(CELL, 1)
    path = tmp_path / "lora" / "seed-0" / "result.json"
    waiting = [other]

    def suspended(_: int) -> None:
        if waiting:
            writer = waiting.pop()
            assert files.create(CELL, 2)
            writer.write(result)

    with mock.patch("os.fsync", suspended):
        asleep.write(replace(result, train_seconds=1.5))
    assert read_result(path).train_seconds == 1.5
    assert [file.name for file in path.parent.iterdir()] == ["result.json"]
