"""Check that imports go one way: a package of the core imports only packages that come before it in ORDER."""

from __future__ import annotations

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

# The packages from the bottom to the top. Add a new package here first.
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
    "quantizations",
    "methods",
    "metrics",
    "rewards",
    "formats",
    "tasks",
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
    "publishing",
    "conformance",
    "api",
    "cli",
)
CORE = Path("adapterzoo")


def package(module: str) -> str:
    """Return the name that a module's package has in ORDER."""
    return module.split(".")[1] if "." in module else module


def imports(path: Path) -> Iterator[str]:
    """Yield every import of the core in a file, also those inside functions and under TYPE_CHECKING."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] == "adapterzoo")
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: write imports in full"
            if node.module == "adapterzoo":
                yield from (f"adapterzoo.{alias.name}" for alias in node.names)
            elif node.module and node.module.startswith("adapterzoo."):
                yield node.module


def against_the_order(path: Path, imported: str) -> str | None:
    """Return what is wrong with an import, or None."""
    importing = package(".".join(path.relative_to(CORE.parent).with_suffix("").parts))
    if importing == package(imported) or ORDER.index(importing) > ORDER.index(package(imported)):
        return None
    target = Path(*imported.split("."))
    return f"{path} imports {target if target.is_dir() else target.with_suffix('.py')}"


def test_every_package_is_in_the_order() -> None:
    packages = {path.stem for path in CORE.iterdir() if path.suffix == ".py" or (path / "__init__.py").is_file()}
    assert packages - {"__init__", "__main__"} == set(ORDER)


def test_every_package_is_installed() -> None:
    """The list in pyproject.toml is kept by hand, because plugins/ is installed under another name."""
    folders = {".".join(path.parent.parts) for path in CORE.rglob("__init__.py")}
    listed = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]["packages"]
    assert folders | {"adapterzoo_plugins", "adapterzoo_plugins.quantizations", "adapterzoo_plugins.tasks"} == set(
        listed
    )


def test_imports_go_one_way() -> None:
    problems = [
        wrong
        for path in sorted(CORE.rglob("*.py"))
        if path.parent != CORE or not path.name.startswith("__")
        for imported in imports(path)
        if (wrong := against_the_order(path, imported))
    ]
    assert not problems, "\n".join(problems)


@pytest.mark.parametrize(
    ("path", "imported", "wrong"),
    [
        ("adapterzoo/recipe/reading.py", "adapterzoo.data.rows", "recipe/reading.py imports adapterzoo/data/rows.py"),
        ("adapterzoo/data/rows.py", "adapterzoo.recipe.reading", ""),
        ("adapterzoo/data/rows.py", "adapterzoo.data.split", ""),
        ("adapterzoo/errors.py", "adapterzoo.cli", "errors.py imports adapterzoo/cli"),
    ],
)
def test_an_import_against_the_order_is_reported(path: str, imported: str, wrong: str) -> None:
    problem = against_the_order(Path(path), imported)
    assert (problem or "").endswith(wrong)
    assert bool(problem) is bool(wrong)
