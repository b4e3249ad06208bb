"""Show the progress of a command on stderr, while stdout stays free for its results."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from adapterzoo.terminal import stdout_to_stderr

if TYPE_CHECKING:
    from adapterzoo.running.reporter import Reporter


@contextmanager
def shown_progress() -> Iterator[Reporter]:
    """Yield an object that shows progress in a ``with`` block; what libraries print there goes to stderr too."""
    from adapterzoo.running.progress import reporter

    progress = reporter()  # looks at stdout, so it is made before stdout is redirected
    with stdout_to_stderr():
        try:
            yield progress
        finally:
            # End the display before stdout is restored, because it puts back the redirected stdout that it found.
            progress.end()
