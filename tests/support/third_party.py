"""Plugins that a test writes to a file, in place of an installed third-party package."""

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
    """Write a plugin's module to a folder that is on the import path, and return its entry point."""
    (folder / f"third_party_{name}.py").write_text(body, encoding="utf-8")
    return EntryPoint(name, f"third_party_{name}", "adapterzoo")
