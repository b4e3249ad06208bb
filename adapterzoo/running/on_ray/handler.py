"""Do items in a process on a node of a Ray cluster, where folders may be others than on the machine of the run."""

from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adapterzoo.machine.processes import Send
from adapterzoo.machine.rank_processes import FAILED
from adapterzoo.results.store import Store

if TYPE_CHECKING:
    from adapterzoo.prepare.prepared import Prepared
    from adapterzoo.running.loading_queue import ItemHandler

MACHINE = "machine"  # the first message of a process: its hardware


class NodeHandler:
    """Does the items in the process on a node."""

    def __init__(self, handler: bytes, folder: Path | None, model_folder: str | None) -> None:
        """Keep what is needed until the first item.

        Args:
            handler: the pickled :class:`ItemHandler`.
            folder: folder for the results; None for the output folder of the run.
            model_folder: folder of the base model; None if it is where the run was prepared.
        """
        self._packed, self._folder, self._model_folder = handler, folder, model_folder
        self._handler: ItemHandler | None = None

    def __call__(self, item: bytes, send: Send) -> None:
        """Do an item and send its messages, pickled by value: tensors would otherwise stay in this machine's memory."""
        if self._handler is None:
            self._handler = self._unpacked()
            send(packed((MACHINE, self._handler.worker.results.machine)))
        # The agent itself reads that a rank has failed.
        self._handler(unpacked(item), lambda message: send(message if message[0] == FAILED else packed(message)))

    def _unpacked(self) -> ItemHandler:
        handler: ItemHandler = unpacked(self._packed)
        worker = handler.worker
        worker.results.describe_machine()
        worker.model_folder = self._model_folder
        if not Path(worker.prepared.location).is_absolute() and worker.prepared.weights is not None:
            # The model comes from a hub, where it may have changed since the run was prepared.
            worker.prepared = _with_revision(worker.prepared, worker.prepared.weights)
        if self._folder is not None:
            worker.store = Store(self._folder)
        return handler


def packed(message: Any) -> bytes:
    """Return what one process of a run sends to another one, as bytes."""
    return pickle.dumps(message)


def unpacked(message: bytes) -> Any:
    """Return what :func:`packed` was given."""
    return pickle.loads(message)


def _with_revision(prepared: Prepared, revision: str) -> Prepared:
    model = prepared.recipe.model.model_copy(update={"revision": revision})
    return replace(prepared, recipe=prepared.recipe.model_copy(update={"model": model}))
