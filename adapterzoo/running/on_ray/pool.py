"""Keep the processes of a run on the nodes of a Ray cluster, while nodes come and go."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import Any

from adapterzoo.errors import Problem, UserError
from adapterzoo.machine.environment import other_versions
from adapterzoo.machine.processes import TICK_SECONDS, ProcessHandle
from adapterzoo.running.on_ray.agent import Order
from adapterzoo.running.on_ray.cluster import RayCluster
from adapterzoo.running.on_ray.model import SentModel
from adapterzoo.running.on_ray.process import RayProcess, close

MAX_FAILED_STARTS = 3  # in a row
LOOK_SECONDS = 2.0  # time between two looks at the nodes of the cluster
PATIENCE_SECONDS = 20.0  # time without any process after which the user is told that the cluster is full


class RayPool:
    """The processes that do items, or will when the cluster has room for them."""

    def __init__(
        self,
        cluster: RayCluster,
        order: Order,
        handler: Any,
        model: Callable[[], SentModel],
        say: Callable[[str], None],
    ) -> None:
        """Begin without processes.

        Args:
            cluster: the cluster.
            order: what each agent has to know.
            handler: the pickled handler of items, in the object store.
            model: returns the files of the base model, for nodes that do not have them; raises UserError if they may
                not be sent.
            say: is called with messages to the user.
        """
        self.cluster, self.order, self.handler, self.model, self.say = cluster, order, handler, model, say
        self.processes: list[RayProcess] = []
        self.refused: list[RayProcess] = []
        """agents on nodes that cannot do cells; they keep their places, so that no other one starts there"""
        self.gpus = cluster.gpus_of_a_cell()
        self._sent_to = set[str]()
        """nodes that got the files of the base model"""
        self._failed_starts = 0
        """number of agents that have ended before they could start a process, since the last one that could"""
        self._looked, self._places = -LOOK_SECONDS, 0
        self._last_process = time.monotonic()
        """when there was a process, or the user was told that there is none"""

    def places(self) -> int:
        """Return how many cells the cluster can do at the same time now, without the nodes that were refused."""
        if time.monotonic() - self._looked > LOOK_SECONDS:
            self._looked = time.monotonic()
            alive = {node["NodeID"] for node in self.cluster.nodes()}
            self.refused = [process for process in self.refused if process.node_id in alive]
            self._places = self.cluster.places(self.order.threads)
        return self._places - len(self.refused)

    def fill(self, wanted: int, busy: Collection[ProcessHandle]) -> list[RayProcess]:
        """Start processes until there are as many as wanted; return those that are too many and not busy."""
        while len(self.processes) < wanted:
            self.processes.append(RayProcess(self.order, self.handler, self.gpus))
        unused = [process for process in self.processes if process not in busy]
        unused.sort(key=lambda process: process.ready)  # those first that have not started
        return unused[: len(self.processes) - wanted]

    def wait(self) -> list[RayProcess]:
        """Take the answers of the agents, after a short wait; return the processes that are ready now and were not."""
        import ray

        self._say_if_full()
        answers = {process.answer: process for process in self.processes}
        if not answers:
            time.sleep(TICK_SECONDS)
            return []
        arrived, others = ray.wait(list(answers), timeout=TICK_SECONDS)
        if others:
            arrived += ray.wait(others, num_returns=len(others), timeout=0)[0]
        opening = [answers[answer] for answer in arrived if not answers[answer].ready]
        for answer in arrived:
            answers[answer].receive()
        return [process for process in opening if self._is_ready(process)]

    def end(self, processes: Collection[RayProcess]) -> None:
        """End processes, and give their places back to the cluster."""
        self.processes = [process for process in self.processes if process not in processes]
        close(list(processes))

    def close(self) -> None:
        """End all processes and agents."""
        self.end([*self.processes, *self.refused])

    def _is_ready(self, process: RayProcess) -> bool:
        """Tell whether a process can take items, after its agent's first answer; if not, do what can be done."""
        opened = process.opened
        if process.ready:
            self._failed_starts = 0
        elif process.lost is not None:
            self._note_failed_start(process)
        elif opened is not None and process.refused:
            self._refuse(process, other_versions(f"node {opened.node}", opened.packages, self.order.packages))
        elif opened is not None:
            self._send_model(process)
        return process.ready

    def _send_model(self, process: RayProcess) -> None:
        try:
            model = self.model()
        except UserError as error:
            self._refuse(process, list(error.problems))
            return
        if process.node_id not in self._sent_to:
            self._sent_to.add(process.node_id)
            self.say(f"sending the base model to {process.node}")
        process.send_model(model)

    def _refuse(self, process: RayProcess, problems: list[Problem]) -> None:
        """Do without a node, and say why.

        Raises:
            UserError: no node is left.
        """
        if process.node_id not in {other.node_id for other in self.refused}:
            self.say("\n".join(map(str, problems)))
        self.processes.remove(process)
        self.refused.append(process)
        if self.places() <= 0:
            raise UserError(*problems)

    def _note_failed_start(self, process: RayProcess) -> None:
        """Note that an agent could not start its process.

        Raises:
            UserError: this has happened too often, and no other process is there.
        """
        self.end([process])
        self._failed_starts += 1
        self.say(f"a process could not be started in the cluster: {process.lost}")
        if self._failed_starts >= MAX_FAILED_STARTS and not any(other.ready for other in self.processes):
            raise UserError.at(self.cluster.where, f"no process can be started there: {process.lost}.")

    def _say_if_full(self) -> None:
        """Tell the user if there was no process for a long time."""
        now = time.monotonic()
        if any(process.ready for process in self.processes):
            self._last_process = now
        elif now - self._last_process > PATIENCE_SECONDS:
            self._last_process = now
            self.say(f"waiting for the cluster: no node has room for a cell ({self.cluster.where})")
