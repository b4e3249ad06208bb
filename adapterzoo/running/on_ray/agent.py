"""Be a run's agent on a node of a Ray cluster: start the process that does cells, hand on its messages and files.

The process is the one that does cells on GPUs without Ray, so a cell is done in the same way, and its agent is there to
say why it crashed. An agent imports neither torch nor what cells need: it passes on what it cannot read.
"""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from adapterzoo.files import cache_folder, remove_abandoned
from adapterzoo.machine import gpu
from adapterzoo.machine.environment import versions
from adapterzoo.machine.fresh_process import DONE, FreshProcess
from adapterzoo.machine.processes import wait_for_any
from adapterzoo.machine.rank_processes import RankProcesses
from adapterzoo.results.probe import sees
from adapterzoo.running.on_ray import files as ray_files
from adapterzoo.running.on_ray.handler import NodeHandler
from adapterzoo.running.on_ray.model import SentModel, has_model, receive_model

FOLDERS = "ray"  # in the cache: a folder for each agent that does not see the output folder


@dataclass(frozen=True)
class Order:
    """The requirements of a run, which an agent checks on its node before it starts the process for the cells."""

    packages: Mapping[str, str | None]
    """package -> the version that it must have"""
    probe: tuple[Path, str]
    """the output folder, and the text in it, which shows whether this node sees the same folder"""
    model: tuple[str, str | None] | None
    """folder of the base model and the digest of its files; None if it comes from a hub"""
    threads: int
    """number of threads of each cell"""
    needs_gpu: bool
    devices: int = 1
    """number of processes that do a cell together"""


@dataclass(frozen=True)
class Opened:
    """An agent's answer to its order."""

    node: str
    """name of its machine"""
    node_id: str
    """Ray's name of its node"""
    packages: Mapping[str, str | None]
    """package -> its version there; the process was not started if one differs"""
    needs_model: bool = False
    """whether the process was not started because the base model is not there"""
    sees_folder: bool = True
    """whether the node sees the output folder; if not, the files of its cells have to be fetched"""


@dataclass(frozen=True)
class Report:
    """The messages of an agent's process since the last report, and its state."""

    messages: list[Any]
    """messages of the process: ``DONE``, or pickled"""
    number: int = 0
    """number of all messages until now"""
    alive: bool = True
    failure: str | None = None
    """why the process ended, if it failed"""
    output: str = ""
    """end of what the process has printed, if its item has ended"""
    kept: ray_files.Kept = field(default_factory=ray_files.Kept)
    """files by which another process could go on, if this node does not see the output folder"""


class Agent:
    """The actor on a node; its methods are called from the machine of the run, one after the other.

    Each may be called twice for one call there, if the network fails before the answer has arrived.
    """

    def __init__(self) -> None:
        self._process: FreshProcess | RankProcesses | None = None
        self._folder: Path | None = None
        self._opened: Opened | None = None
        self._messages: list[Any] = []
        self._number = 0
        self._items = 0
        """number of items that the process was given"""

    def open(self, order: Order, handler: bytes, model: SentModel | None = None) -> Opened:
        """Start the process, unless something is missing.

        Args:
            order: the order.
            handler: the pickled :class:`ItemHandler`.
            model: the files of the base model, if this node does not have them.
        """
        if self._opened is not None:
            return self._opened
        found, model_folder = versions(order.packages), None
        opened = Opened(platform.node(), _node_id(), found)
        if found != order.packages:
            return opened
        if order.model is not None and not has_model(*order.model):
            if model is None:
                return replace(opened, needs_model=True)
            model_folder = str(receive_model(model))
        if not (sees(*order.probe) and os.access(order.probe[0], os.W_OK)):
            folders = cache_folder() / FOLDERS
            folders.mkdir(parents=True, exist_ok=True)
            remove_abandoned(folders, "*")
            self._folder = Path(tempfile.mkdtemp(dir=folders))
        environment = {} if order.needs_gpu else {gpu.VISIBLE: ""}
        node_handler = NodeHandler(handler, self._folder, model_folder)
        if order.devices == 1:
            self._process = FreshProcess(node_handler, order.threads, environment)
        else:
            self._process = RankProcesses(
                order.devices,
                lambda rank: FreshProcess(node_handler, order.threads, {**environment, **rank.environment()}),
            )
        self._opened = replace(opened, sees_folder=self._folder is None)
        return self._opened

    @property
    def process(self) -> FreshProcess | RankProcesses:
        """The process that does the cells, or its ranks."""
        assert self._process is not None
        return self._process

    @property
    def folder(self) -> Path:
        """The folder for the files of its cell, which is not the output folder."""
        assert self._folder is not None
        return self._folder

    def report(self, number: int) -> Report:
        """Return what has happened, after a short wait for it.

        Args:
            number: how many messages have arrived already; the others are sent, again if a report was lost.
        """
        wait_for_any([self.process])
        alive = self.process.alive
        new = list(self.process.messages())
        self._messages += new
        self._number += len(new)
        self._messages = self._messages[max(0, len(self._messages) - (self._number - number)) :]
        ended = not alive or DONE in self._messages
        kept = ray_files.Kept()
        if self._folder is not None:
            os.utime(self._folder)  # so that it does not count as abandoned
            kept = ray_files.kept_files(self._folder)
        return Report(
            messages=list(self._messages),
            number=self._number,
            alive=alive,
            failure=None if alive else self.process.failure(),
            output=self.process.output() if ended else "",
            kept=kept,
        )

    def give(self, item: bytes, number: int) -> None:
        """Give the process its next item, which is the first, second or n-th one."""
        if number > self._items:
            self._items = number
            self.process.give(item)

    def ask_to_stop(self) -> None:
        """Ask the process to save and end what it is training."""
        self.process.ask_to_stop()

    def kill(self) -> None:
        """End the process, but not the agent."""
        self.process.kill()

    def close(self) -> None:
        """End the process, and remove the folder of its cells."""
        if self._process is not None:
            self._process.kill()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def clear(self) -> None:
        """Remove the files of the cells before."""
        for path in self.folder.iterdir():
            shutil.rmtree(path, ignore_errors=True)

    def files(self, name: str) -> dict[str, int]:
        """Return path -> size for the complete files in a folder."""
        return ray_files.complete_files(self.folder, name)

    def read(self, name: str, start: int) -> bytes | None:
        """Return a part of a file; None if it does not exist."""
        return ray_files.read_part(self.folder, name, start)

    def write(self, name: str, start: int, content: bytes) -> None:
        """Write a part of a file."""
        ray_files.write_part(self.folder, name, start, content)


def _node_id() -> str:
    import ray

    return str(ray.get_runtime_context().get_node_id())
