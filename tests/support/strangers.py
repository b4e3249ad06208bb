"""Plugins that a test writes, in place of a stranger's package."""

from __future__ import annotations

from importlib.metadata import EntryPoint
from pathlib import Path

METHOD = """
from adapterzoo import Method, Options, hookimpl
class Mine(Method):
    name, summary, paper, options = "NAME", "s", "p", Options
    learning_rate, learning_rate_source = 1e-3, "me"
@hookimpl
def adapterzoo_methods():
    return [Mine()]
"""


def plugin(name: str, folder: Path, body: str) -> EntryPoint:
    """An entry point whose module is a file; the folder is on the path."""
    (folder / f"stranger_{name}.py").write_text(body, encoding="utf-8")
    return EntryPoint(name, f"stranger_{name}", "adapterzoo")
