"""See a process on a node of a Ray cluster as if it were on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Any

from adapterzoo.errors import AdapterzooError, failure_reason
from adapterzoo.machine.fresh_process import DONE
from adapterzoo.machine.processes import ProcessHandle
from adapterzoo.running.on_ray.agent import Agent, Opened, Order, Report
from adapterzoo.running.on_ray.files import CellFiles
from adapterzoo.running.on_ray.handler import packed, unpacked
from adapterzoo.running.on_ray.model import SentModel

ANSWER_SECONDS = 300.0  # a node that does not send or take a part of a file for so long counts as lost
CLOSE_SECONDS = 5.0


class LostError(AdapterzooError):
    """A node does not answer any more."""


class RayProcess(ProcessHandle):
    """A process on a node, with its agent, which holds the resources of the process.

    It is *opening* until its agent has started it, then it takes one item after the other.
    """

    def __init__(self, order: Order, handler: Any, gpus: float) -> None:
        """Ask the cluster for an agent.

        Args:
            order: what the agent has to know.
            handler: the pickled handler, in the object store.
            gpus: number of GPUs.
        """
        import ray

        cpus = order.threads * order.devices
        options = {"num_cpus": cpus, "num_gpus": gpus, "scheduling_strategy": "SPREAD", "max_restarts": 0}
        # The network may fail for a moment. Calls to a node that is lost end all the same.
        options["max_task_retries"] = -1
        self._agent = ray.remote(Agent).options(**options).remote()
        self._order, self._handler = order, handler
        self.answer = self._agent.open.remote(order, handler)
        """the next answer of the agent, an ObjectRef"""
        self.opened: Opened | None = None
        self.lost: str | None = None
        """why its node or its agent is gone"""
        self.files: CellFiles | None = None
        """files of its cell, if its node does not see the output folder"""
        self.report = Report([])
        self._received: list[Any] = []
        self._items = 0
        """number of items that it was given"""

    @property
    def node(self) -> str:
        """The name of its machine."""
        return self.opened.node if self.opened else "a node"

    @property
    def node_id(self) -> str:
        """Ray's name of its node; empty before its agent has answered."""
        return self.opened.node_id if self.opened else ""

    @property
    def ready(self) -> bool:
        """Whether it takes items."""
        return self.opened is not None and self.lost is None and not self.refused and not self.opened.needs_model

    @property
    def refused(self) -> bool:
        """Whether its node has other versions of packages."""
        return self.opened is not None and self.opened.packages != self._order.packages

    def receive(self) -> None:
        """Take the agent's answer, which has arrived, and ask for the next one."""
        from ray import get
        from ray.exceptions import ActorUnavailableError, RayError

        try:
            answer = get(self.answer)
        except ActorUnavailableError:  # the network failed for a moment; Ray decides when the node is lost
            if self.opened is None:
                self.answer = self._agent.open.remote(self._order, self._handler)
                return
        except RayError as error:
            self._lose(error)
            return
        else:
            self._take(answer)
        if self.ready:
            self.answer = self._agent.report.remote(self.report.number)

    def _take(self, answer: Opened | Report) -> None:
        if isinstance(answer, Opened):
            self.opened = answer
        else:
            new = answer.number - self.report.number
            self._received += answer.messages[len(answer.messages) - new :] if new else []
            self.report = answer

    def _lose(self, error: Exception) -> None:
        self.lost = _reason(error)
        with suppress(Exception):
            self._kill_agent()

    def send_model(self, model: SentModel) -> None:
        """Open it again, with the files of the base model."""
        self.opened = None
        self.answer = self._agent.open.remote(self._order, self._handler, model)

    def ask(self, method: str, *arguments: Any) -> Any:
        """Return what a method of the agent returns.

        Raises:
            LostError: the node is lost.
        """
        from ray import get
        from ray.exceptions import RayError

        if self.lost is None:
            try:
                return get(getattr(self._agent, method).remote(*arguments), timeout=ANSWER_SECONDS)
            except RayError as error:
                self._lose(error)
        raise LostError(self.lost or "")

    def give(self, item: Any) -> None:
        """See :meth:`ProcessHandle.give`."""
        self._items += 1
        self._agent.give.remote(packed(item), self._items)

    @property
    def ended(self) -> bool:
        """Whether its item has ended, in whatever way."""
        return not self.alive or DONE in self._received

    def messages(self) -> Iterator[Any]:
        """See :meth:`ProcessHandle.messages`."""
        while self._received:
            message = self._received.pop(0)
            yield message if message == DONE else unpacked(message)

    @property
    def alive(self) -> bool:
        """See :attr:`ProcessHandle.alive`."""
        return self.lost is None and self.report.alive

    def failure(self) -> str | None:
        """See :meth:`ProcessHandle.failure`."""
        return f"its process on {self.node} was lost: {self.lost}" if self.lost else self.report.failure

    def output(self) -> str:
        """See :meth:`ProcessHandle.output`."""
        return self.report.output

    def ask_to_stop(self) -> None:
        """See :meth:`ProcessHandle.ask_to_stop`."""
        self._agent.ask_to_stop.remote()

    def kill(self) -> None:
        """See :meth:`ProcessHandle.kill`; its agent stays, to hand over the files."""
        if self.alive:
            self._agent.kill.remote()

    def _kill_agent(self) -> None:
        import ray

        ray.kill(self._agent)


class RemoteFiles:
    """The files of a node; each method may raise a LostError."""

    def __init__(self, process: RayProcess) -> None:
        self._process = process

    def files(self, name: str) -> dict[str, int]:
        """See :meth:`Agent.files`."""
        found: dict[str, int] = self._process.ask("files", name)
        return found

    def read(self, name: str, start: int) -> bytes | None:
        """See :meth:`Agent.read`."""
        part: bytes | None = self._process.ask("read", name, start)
        return part

    def write(self, name: str, start: int, content: bytes) -> None:
        """See :meth:`Agent.write`."""
        self._process.ask("write", name, start, content)

    def clear(self) -> None:
        """See :meth:`Agent.clear`."""
        self._process.ask("clear")


def close(processes: Sequence[RayProcess]) -> None:
    """End processes and their agents, which give their resources back to the cluster."""
    import ray

    ends = [process._agent.close.remote() for process in processes if process.opened and process.lost is None]
    if ends:
        ray.wait(ends, num_returns=len(ends), timeout=CLOSE_SECONDS)
    for process in processes:
        with suppress(Exception):  # the node is gone
            process._kill_agent()


def _reason(error: Exception) -> str:
    """Return, in a line, why an agent does not answer."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return failure_reason(AdapterzooError(lines[-1] if lines else type(error).__name__))
