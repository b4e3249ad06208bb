"""Connect to a Ray cluster, and find out whether its nodes can do cells."""

from __future__ import annotations

import signal
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import chdir, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adapterzoo.errors import Problem, UserError, failure_reason
from adapterzoo.machine.environment import SAME_HINT, other_versions, versions
from adapterzoo.terminal import counted

INSTALL = "Run: pip install 'adapterzoo[ray]'"
CONNECT_SECONDS = 10.0
NODE_SECONDS = 120.0  # time in which a node has to say its versions; it may have to start a process for it
MAX_RETRIES = 3  # the network may fail for a moment
CLIENT = "ray://"
NO_ADDRESS = ("auto", "local")


@dataclass(frozen=True)
class RayCluster:
    """A Ray cluster, and what each cell gets of it."""

    address: str
    gpus: float | None = None
    """share of a GPU for each cell; None for one GPU, or one for each process of a cell, if the cluster has any"""
    devices: int = 1
    """number of processes that do a cell together, on one node"""

    @property
    def where(self) -> str:
        """The option that names the cluster, for messages."""
        return f"--ray {self.address}"

    @contextmanager
    def connected(self) -> Iterator[None]:
        """Connect to the cluster for a ``with`` block, unless the caller has.

        Raises:
            UserError: Ray is not installed, or nobody answers.
        """
        if self.gpus is not None and not 0 <= self.gpus <= 1:
            raise UserError.at(f"--gpus {self.gpus:g}", "is not between 0 and 1: train.devices gives a cell several.")
        if self.gpus not in (None, 0, 1) and self.devices > 1:
            what = f"is a share of a GPU, and each of the {self.devices} processes of a cell needs a whole one."
            raise UserError.at(f"--gpus {self.gpus:g}", what, "Leave it out, or set train.devices: 1.")
        try:
            import ray
        except ImportError:
            raise UserError.at(self.where, "needs Ray, which is not installed.", f"{INSTALL}.") from None
        if ray.is_initialized():
            yield
            return
        self._require_answer()
        handler = signal.getsignal(signal.SIGTERM)
        try:
            # Ray puts the working directory in front of the nodes' import paths, where it could hide modules. Let that
            # be a folder that is on these paths anyway.
            with chdir(Path(ray.__file__).parent.parent):
                ray.init(address=self.address, log_to_driver=False, logging_level="CRITICAL")
        except Exception as error:
            what = f"cannot be used: {failure_reason(error)}."
            hint = "Start the run on a machine of the cluster, with the cluster's versions of Python and Ray."
            raise UserError.at(self.where, what, hint) from None
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGTERM, handler)  # with Ray's own, a batch system could not stop a run gently
        try:
            yield
        finally:
            ray.shutdown()

    def _require_answer(self) -> None:
        """Raise UserError if nobody listens at the address; Ray itself would try for minutes."""
        if self.address in NO_ADDRESS:
            return
        host, _, port = self.address.removeprefix(CLIENT).rpartition(":")
        if not host or not port.isdecimal():
            hint = "Give HOST:PORT, as ray start --head prints it, or auto on a machine of the cluster."
            raise UserError.at(self.where, "is no address of a Ray cluster.", hint)
        try:
            socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
        except (OSError, OverflowError) as error:
            what = f"does not answer: {failure_reason(error)}."
            raise UserError.at(self.where, what, "Start the cluster: ray start --head.") from None

    def nodes(self) -> list[dict[str, Any]]:
        """Return Ray's description of each node that is alive."""
        import ray

        return [node for node in ray.nodes() if node["Alive"]]

    def gpus_of_a_cell(self) -> float:
        """Return how many GPUs each cell gets."""
        wanted = float(any(node["Resources"].get("GPU") for node in self.nodes())) if self.gpus is None else self.gpus
        return wanted * self.devices

    def places(self, threads: int) -> int:
        """Return how many cells the cluster can do at the same time, with so many threads each."""
        gpus, places = self.gpus_of_a_cell(), 0
        for node in self.nodes():
            cores, cards = (node["Resources"].get(name, 0.0) for name in ("CPU", "GPU"))
            places += int(min(cores // (threads * self.devices), cards / gpus if gpus else cores))
        return places

    def require_places(self, threads: int) -> None:
        """Raise UserError if no node can do a cell with so many threads."""
        if not self.places(threads):
            gpus = self.gpus_of_a_cell()
            wanted = counted(threads * self.devices, "CPU") + (f" and {gpus:g} GPU" if gpus else "")
            hint = "With --jobs N, the run waits for nodes that come later."
            raise UserError.at(self.where, f"no node of the cluster has {wanted}, which each cell needs.", hint)

    def require_versions(self, wanted: Mapping[str, str | None]) -> None:
        """Raise UserError unless all nodes have these versions of packages, package -> version."""
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        ask = ray.remote(versions)
        answers = {}
        for node in self.nodes():
            here = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            answers[node["NodeManagerHostname"], node["NodeID"]] = ask.options(
                num_cpus=0, scheduling_strategy=here, max_retries=MAX_RETRIES
            ).remote(list(wanted))
        problems = []
        for (name, _), answer in answers.items():
            try:
                problems += other_versions(f"node {name}", ray.get(answer, timeout=NODE_SECONDS), wanted)
            except Exception as error:
                problems.append(Problem(f"node {name}", f"cannot say its versions: {_last_line(error)}.", SAME_HINT))
        if problems:
            raise UserError(*dict.fromkeys(problems))


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
