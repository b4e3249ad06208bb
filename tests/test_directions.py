"""Imports go one way: a package of the core imports only what stands before it in the order below."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

# From the bottom to the top. A new package finds its place here first.
ORDER = (
    "errors",
    "terminal",
    "files",
    "digests",
    "data_row",
    "hookspecs",
    "entry_points",
    "machine",
    "results",
    "methods",
    "metrics",
    "formats",
    "recipe",
    "data",
    "starter",
    "model",
    "tokens",
    "evaluation",
    "training",
    "prepare",
    "running",
    "comparison",
    "report",
    "adapters",
    "conformance",
    "api",
    "cli",
)
CORE = Path("adapterzoo")


def package(module: str) -> str:
    """Return the name under which a module stands in ORDER."""
    return module.split(".")[1] if "." in module else module


def imports(path: Path) -> Iterator[str]:
    """Find every import of the core in a file, inside functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "adapterzoo")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: imports are written in full here"
            if node.module == "adapterzoo":
                yield from (f"adapterzoo.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("adapterzoo."):
                yield node.module


def against_the_order(path: Path, imported: str) -> str | None:
    """Return what is wrong with an import, or None."""
    own, other = package(".".join(path.relative_to(CORE.parent).with_suffix("").parts)), package(imported)
    if own == other or ORDER.index(own) > ORDER.index(other):
        return None
    target = Path(*imported.split("."))
    return f"{path} imports {target if target.is_dir() else target.with_suffix('.py')}"


def test_every_package_has_its_place() -> None:
    there = {path.stem for path in CORE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert there - {"__init__", "__main__"} == set(ORDER)


def test_imports_go_one_way() -> None:
    found = [
        wrong
        for path in sorted(CORE.rglob("*.py"))
        if path.parent != CORE or not path.name.startswith("__")
        for imported in imports(path)
        if (wrong := against_the_order(path, imported))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("path", "imported", "wrong"),
    [
        ("adapterzoo/recipe/reading.py", "adapterzoo.data.rows", "recipe/reading.py imports adapterzoo/data/rows.py"),
        ("adapterzoo/data/rows.py", "adapterzoo.recipe.reading", ""),
        ("adapterzoo/data/rows.py", "adapterzoo.data.split", ""),
        ("adapterzoo/errors.py", "adapterzoo.cli", "errors.py imports adapterzoo/cli"),
    ],
)
def test_an_import_against_the_order_is_named(path: str, imported: str, wrong: str) -> None:
    found = against_the_order(Path(path), imported)
    assert (found or "").endswith(wrong)
    assert bool(found) is bool(wrong)
