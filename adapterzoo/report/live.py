"""Make the content that ``adapterzoo view`` shows: the comparison of a folder, and the progress of its run."""

from __future__ import annotations

from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

from adapterzoo.comparison import compare
from adapterzoo.digests import text_digest
from adapterzoo.errors import UserError
from adapterzoo.report import page
from adapterzoo.results.note import NOTE, UNREADABLE, read_note
from adapterzoo.results.progress import CellProgress, read_progress
from adapterzoo.results.reading import read_results
from adapterzoo.results.result import RESULT
from adapterzoo.terminal import clean, counted, duration


class _Shown(NamedTuple):
    """The content of the page at one moment."""

    title: str
    content: str
    version: str
    """name of this content"""
    problem: str
    """why newer results cannot be shown; empty if they can"""


class LiveFolder:
    """An output folder that is read again whenever a file of its results has changed; it is never written to."""

    def __init__(self, folder: Path) -> None:
        """Begin to watch a folder.

        Args:
            folder: the output folder of a run, which may have no result yet.

        Raises:
            UserError: there is no such folder, it is no output folder, or its results cannot be compared.
        """
        self.folder = folder
        self._lock = Lock()
        if (folder / NOTE).is_file() and not self._results():
            self._shown = self._waiting()
        else:
            read_results(folder)
            self._shown = self._compared()
        self._seen = self._files()

    def page(self) -> str:
        """Return the whole page."""
        shown = self._current()
        return page.live_page(shown.title, shown.content, shown.version)

    def state(self, have: str) -> dict[str, Any]:
        """Return what the page asks for every two seconds.

        Args:
            have: version of the content that the page shows; the content is returned if there is another one.
        """
        shown, progress = self._current(), read_progress(self.folder)
        news = {"title": shown.title, "content": shown.content} if have != shown.version else {}
        running = [_texts(cell) for cell in progress or ()]
        return {"version": shown.version, "status": self._status(shown, progress), "running": running, **news}

    def _current(self) -> _Shown:
        """Return what is to be shown; the comparison is made again if files have changed."""
        with self._lock:
            files = self._files()
            if files != self._seen:
                self._seen = files
                try:
                    self._shown = self._compared() if self._results() else self._waiting()
                except UserError as error:
                    problem = clean(error.problems[0])
                    self._shown = self._shown._replace(problem=problem)
            return self._shown

    def _compared(self) -> _Shown:
        comparison = compare(self.folder)
        content = page.content(comparison)
        return _Shown(page.title(comparison), content, text_digest(content), "")

    def _waiting(self) -> _Shown:
        content = page.waiting(str(self.folder))
        return _Shown("Waiting for the first result", content, text_digest(content), "")

    def _results(self) -> list[Path]:
        return sorted(self.folder.glob(f"*/seed-*/{RESULT}"))

    def _files(self) -> list[tuple[str, int, int]]:
        """Return the name, time and size of each file that a comparison depends on and that a run replaces."""
        found = []
        for path in (self.folder / NOTE, *self._results()):
            try:
                status = path.stat()
            except OSError:  # the run removes a result before it makes it again
                continue
            found.append((str(path), status.st_mtime_ns, status.st_size))
        return found

    def _status(self, shown: _Shown, progress: list[CellProgress] | None) -> str:
        """Return a sentence on the run."""
        results = {(path.parent.parent.name, path.parent.name) for path in self._results()}
        try:
            planned = {(str(label), f"seed-{seed}") for label, seed in read_note(self.folder)["cells"]}
        except UNREADABLE:  # written by an old version, or damaged
            planned = results
        done = f"{len(planned & results)} of {counted(len(planned), 'cell')} done"
        state = "A run is under way" if progress is not None else "No run is under way"
        return f"{state}: {done}." + (f" The newest results cannot be shown: {shown.problem}" if shown.problem else "")


def _texts(cell: CellProgress) -> dict[str, Any]:
    """Return the progress of a cell, with its numbers as the page shows them."""
    left = cell["seconds_left"]
    return {
        "label": clean(cell["label"]),
        "seed": cell["seed"],
        "phase": clean(cell["phase"]),
        "step": cell["step"],
        "steps": cell["steps"],
        "loss": f"{cell['loss']:.3f}" if cell["step"] else None,
        "left": duration(left) if left is not None else None,
    }
