"""Writes long, uneven rows that begin with nothing in common: a function of Python's library, and what it does.

The question is a function's code without its docstring, the answer the docstring's first line.
"""

from __future__ import annotations

import ast
import csv
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROWS = 600
CHARACTERS = range(250, 2000)  # of a function's code, about 50 to 600 tokens
LINE_CHARACTERS = range(15, 80)  # of what it does


def write_rows(path: Path) -> None:
    """Write ROWS rows, drawn from the library of the Python that runs, as a CSV file."""
    library = Path(sysconfig.get_paths()["stdlib"])
    found = {code: line for file in sorted(library.glob("*.py")) for code, line in _functions(file)}
    drawn = random.Random(0).sample(sorted(found.items()), ROWS)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["code", "does"])
        writer.writerows(drawn)


def _functions(file: Path) -> Iterator[tuple[str, str]]:
    """Yield each function's code without its docstring, and the docstring's first line."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8", errors="replace"))):
        if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
            continue
        line = (ast.get_docstring(node) or "").partition("\n")[0].strip()
        node.body = node.body[1:]
        code = ast.unparse(node)
        if len(code) in CHARACTERS and len(line) in LINE_CHARACTERS:
            yield code, line
