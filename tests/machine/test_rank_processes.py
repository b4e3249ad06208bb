"""Check several processes that are treated as one: their messages, and how they end."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from typing import Any

import pytest

from adapterzoo.machine import rank_processes
from adapterzoo.machine.processes import ProcessHandle, Send, wait_for_any
from adapterzoo.machine.rank_processes import FAILED, forked_ranks


def ended(work: Callable[[int, Send], None], count: int = 3) -> tuple[ProcessHandle, list[Any]]:
    """Do work in ranks; return their handle when they have ended, and their messages."""
    process = forked_ranks(count, lambda send: work(int(os.environ["RANK"]), send), 1)
    messages: list[Any] = []
    begun = time.monotonic()
    while process.alive:
        assert time.monotonic() - begun < 20
        wait_for_any([process])
        messages += process.messages()
    messages += process.messages()
    process.kill()
    return process, messages


def test_rank_0_speaks_for_all() -> None:
    def work(rank: int, send: Send) -> None:
        send(("from", rank, os.environ["WORLD_SIZE"], os.environ["OMP_NUM_THREADS"]))

    process, messages = ended(work)
    assert messages == [("from", 0, "3", "1")]
    assert process.failure() is None


def test_ranks_agree_and_gather() -> None:
    from adapterzoo.machine import ranks

    def work(rank: int, send: Send) -> None:
        ranks.join()
        agreed = ranks.agreed(lambda: f"rank {ranks.number()}")
        with ranks.spreading():
            own = dict.fromkeys(ranks.own_share(range(5)), rank)
            send((agreed, ranks.gathered(rank), ranks.totals([1.0, rank]), ranks.merged(own)))

    _, messages = ended(work)
    assert messages == [("rank 0", [0, 1, 2], [3.0, 3.0], {0: 0, 3: 0, 1: 1, 4: 1, 2: 2})]


def test_a_rank_that_is_killed_ends_all_at_once() -> None:
    def work(rank: int, send: Send) -> None:
        if rank == 2:
            print("the last words")
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(60)

    process, messages = ended(work)
    assert messages == []
    assert process.failure() == "rank 2 of 3: its process was ended by SIGKILL (out of memory, or killed by a user)"


@pytest.mark.parametrize(("waits", "why"), [(True, "rank 1 of 3: ValueError: wrong"), (False, None)])
def test_an_error_of_a_rank_is_the_reason_unless_rank_0_ends_by_itself(
    waits: bool, why: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rank_processes, "GRACE_SECONDS", 1.0)

    def work(rank: int, send: Send) -> None:
        if rank == 1:
            send((FAILED, "ValueError: wrong"))
            os._exit(1)
        time.sleep(60 if waits else 0.2)

    process, _ = ended(work)
    assert process.failure() == why
