"""The documents police themselves: what they name is there, and what is there they name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from adapterzoo.cli import main
from adapterzoo.reading import load_recipe

README = Path("README.md").read_text(encoding="utf-8")
RECIPES = sorted(Path("recipes").glob("*.yaml"))


def test_the_readme_names_every_module_and_every_command() -> None:
    for path in Path("adapterzoo").glob("*.py"):
        if not path.name.startswith("__") and path.name not in (
            "errors.py",
            "hookspecs.py",
            "environment.py",
            "memory.py",
            "terminal.py",
        ):
            assert path.name in README, path
    for name in main.commands:
        assert f"adapterzoo {name}" in README, name


def test_every_file_that_a_document_names_is_there() -> None:
    for document in (Path("README.md"), *Path("docs").glob("*.md")):
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text) + re.findall(r"`(tests/[\w/]+\.py)`", text):
            assert (document.parent / target).exists() or Path(target).exists(), (document, target)


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.name)
def test_every_recipe_opens_with_its_purpose_and_command_and_is_sound(path: Path) -> None:
    comment = path.read_text(encoding="utf-8").partition("\n\n")[0]
    assert comment.startswith("# ")
    assert "# Needs:" in comment
    assert f"adapterzoo run {path}" in comment
    load_recipe(path)


def test_the_example_recipe_of_the_readme_is_sound(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "my.yaml").write_text(example, encoding="utf-8")
    (tmp_path / "faq.csv").write_text("Q,A\n", encoding="utf-8")
    load_recipe(tmp_path / "my.yaml")
