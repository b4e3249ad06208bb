"""Write long rows of different lengths without a common prefix, made of the functions of Python's standard library.

The question is the code of a function without its docstring. The answer is the first line of the docstring.
"""

from __future__ import annotations

import ast
import csv
import random
import sysconfig
from collections.abc import Iterator
from pathlib import Path

ROWS = 600
CODE_CHARACTERS = range(250, 2000)  # about 50 to 600 tokens
LINE_CHARACTERS = range(15, 80)


def write_rows(path: Path) -> None:
    """Write ROWS rows, drawn from the standard library of the running Python, as a CSV file."""
    library = Path(sysconfig.get_paths()["stdlib"])
    line_by_code = {code: line for file in sorted(library.glob("*.py")) for code, line in _functions(file)}
    drawn = random.Random(0).sample(sorted(line_by_code.items()), ROWS)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["code", "does"])
        writer.writerows(drawn)


def _functions(file: Path) -> Iterator[tuple[str, str]]:
    """Yield the code of each function without its docstring, and the first line of the docstring."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8", errors="replace"))):
        if not isinstance(node, ast.FunctionDef) or len(node.body) < 2:
            continue
        line = (ast.get_docstring(node) or "").partition("\n")[0].strip()
        node.body = node.body[1:]
        code = ast.unparse(node)
        if len(code) in CODE_CHARACTERS and len(line) in LINE_CHARACTERS:
            yield code, line
