"""The lower bounds of the dependencies exclude every advisory in SECURITY.md, and so do the locked versions."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROW = re.compile(r"^\| ((?:CVE|GHSA|PYSEC|peft issue)[^|]*) \| (\S+) \| ([\d.]+) \| [^|]+ \|$", re.MULTILINE)
ADVISORIES = ROW.findall(Path("SECURITY.md").read_text(encoding="utf-8"))


def bounds() -> dict[str, Version]:
    """Return the lower bound of each direct dependency, also of those that build and test."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))
    extras = project["project"]["optional-dependencies"].values()
    listed = [
        *project["build-system"]["requires"],
        *project["project"]["dependencies"],
        *(r for e in extras for r in e),
    ]
    found = {}
    for requirement in map(Requirement, listed):
        ((_, version),) = [(part.operator, part.version) for part in requirement.specifier]
        found[canonicalize_name(requirement.name)] = Version(version)
    return found


def locked() -> dict[str, Version]:
    lines = Path("requirements.lock").read_text(encoding="utf-8").split()
    return {canonicalize_name(name): Version(version) for name, _, version in (line.partition("==") for line in lines)}


def test_the_list_of_advisories_is_read() -> None:
    assert len(ADVISORIES) > 30
    assert {"torch", "transformers", "peft", "datasets", "jinja2", "filelock"} <= {
        package for _, package, _ in ADVISORIES
    }


@pytest.mark.parametrize(("numbers", "package", "first_good"), ADVISORIES)
def test_no_version_with_a_known_hole_is_accepted(numbers: str, package: str, first_good: str) -> None:
    assert locked()[package] >= Version(first_good)
    if package in bounds():
        assert bounds()[package] >= Version(first_good), f"pyproject.toml accepts a {package} with {numbers}"


def test_functions_with_a_hole_that_nobody_has_mended_are_not_used() -> None:
    holes = ("load_checkpoint_in_model", "load_checkpoint_and_dispatch", "jit.script")
    for path in (*Path("adapterzoo").rglob("*.py"), *Path("plugins").rglob("*.py")):
        assert not [name for name in holes if name in path.read_text(encoding="utf-8")], path
