"""Check the documents: everything that they name exists, and every command, folder and method is in them."""

from __future__ import annotations

import re
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path

from adapterzoo.cli import main
from adapterzoo.cli.methods import markdown
from adapterzoo.cli.quantizations import markdown as quantizations_markdown
from adapterzoo.conformance import PROPERTIES
from adapterzoo.entry_points import BUILT_IN
from adapterzoo.methods.contract import attributes
from adapterzoo.methods.registry import Registry
from adapterzoo.quantizations.registry import Quantizations
from adapterzoo.recipe.reading import load_recipe
from adapterzoo.report import capabilities
from adapterzoo.tasks.registry import Tasks

README = Path("README.md").read_text(encoding="utf-8")
TABLE = re.compile(r"(<!-- adapterzoo methods --markdown -->\n)(.*?)(<!-- end -->)", re.DOTALL)
CAPABILITIES = re.compile(r"(<!-- adapterzoo methods --capabilities markdown -->\n)(.*?)(<!-- end -->)", re.DOTALL)
QUANTIZATIONS = re.compile(r"(<!-- adapterzoo quantizations --markdown -->\n)(.*?)(<!-- end -->)", re.DOTALL)
QUANTIZATIONS_DOCUMENT = Path("docs/quantizations.md")
CAPABILITIES_DOCUMENT = Path("docs/capabilities.md")
CAPABILITIES_PAGE = Path("docs/capabilities.html")


@cache
def built_in() -> Registry:
    """Return the built-in methods, without third-party ones that may be installed."""
    return Registry(point for point in entry_points(group="adapterzoo") if point.dist and point.dist.name == BUILT_IN)


@cache
def what_they_can_do() -> capabilities.Table:
    points = [point for point in entry_points(group="adapterzoo") if point.dist and point.dist.name == BUILT_IN]
    return capabilities.table(built_in(), Tasks(points), built_in())


def quantizations_tables() -> str:
    points = [point for point in entry_points(group="adapterzoo") if point.dist and point.dist.name == BUILT_IN]
    return quantizations_markdown(Quantizations(points), built_in())


def methods_table() -> str:
    found = TABLE.search(README)
    assert found, "the README has no place for the table of methods"
    return found.group(2)


def test_the_readme_names_every_folder_and_every_command() -> None:
    for path in Path("adapterzoo").iterdir():
        if path.is_dir() and not path.name.startswith("__"):
            assert f"  {path.name}/ " in README, path
        elif path.suffix == ".py" and not path.name.startswith("__"):
            assert path.name in README, path
    for name in main.commands:
        assert f"adapterzoo {name}" in README, name


def test_the_readme_lists_the_methods_as_they_are() -> None:
    """If this fails, ``python tests/test_docs.py`` writes the table again."""
    assert methods_table() == markdown(built_in())


def test_the_documents_of_capabilities_are_what_was_seen() -> None:
    """If this fails, ``make docs`` writes both again."""
    found = CAPABILITIES.search(CAPABILITIES_DOCUMENT.read_text(encoding="utf-8"))
    assert found
    assert found.group(2) == capabilities.markdown(what_they_can_do())
    assert CAPABILITIES_PAGE.read_text(encoding="utf-8") == capabilities.html(what_they_can_do()) + "\n"


def test_the_document_of_quantizations_is_what_was_seen() -> None:
    """If this fails, ``make docs`` writes it again."""
    found = QUANTIZATIONS.search(QUANTIZATIONS_DOCUMENT.read_text(encoding="utf-8"))
    assert found
    assert found.group(2) == quantizations_tables()


def test_the_document_of_the_conformance_kit_has_every_property_and_every_method() -> None:
    text = Path("docs/conformance.md").read_text(encoding="utf-8")
    for name in PROPERTIES:
        assert f"| {name} |" in text
    report = text.rpartition("```text\n")[2]
    for name in built_in():
        if not built_in()[name].unavailable:
            assert re.search(rf"^{name} ", report, re.MULTILINE), f"{name}: adapterzoo plugin check --all"


def test_every_attribute_of_a_method_is_explained() -> None:
    text = Path("docs/add-a-method.md").read_text(encoding="utf-8")
    assert not [name for name in attributes() if f"`{name}`" not in text]


def test_every_file_that_a_document_names_exists() -> None:
    for document in (Path("README.md"), *Path("docs").glob("*.md")):
        text = document.read_text(encoding="utf-8")
        for target in re.findall(r"\]\((?!http)([^)#]+)\)", text) + re.findall(r"`(tests/[\w/]+\.py)`", text):
            assert (document.parent / target).exists() or Path(target).exists(), (document, target)


def test_the_example_recipe_of_the_readme_loads(tmp_path: Path) -> None:
    (example,) = re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)
    (tmp_path / "my.yaml").write_text(example, encoding="utf-8")
    (tmp_path / "faq.csv").write_text("Q,A\n", encoding="utf-8")
    load_recipe(tmp_path / "my.yaml")


if __name__ == "__main__":
    text = TABLE.sub(lambda found: found.group(1) + markdown(built_in()) + found.group(3), README)
    Path("README.md").write_text(text, encoding="utf-8")
    table = capabilities.markdown(what_they_can_do())
    text = CAPABILITIES_DOCUMENT.read_text(encoding="utf-8")
    text = CAPABILITIES.sub(lambda found: found.group(1) + table + found.group(3), text)
    CAPABILITIES_DOCUMENT.write_text(text, encoding="utf-8")
    text = QUANTIZATIONS_DOCUMENT.read_text(encoding="utf-8")
    text = QUANTIZATIONS.sub(lambda found: found.group(1) + quantizations_tables() + found.group(3), text)
    QUANTIZATIONS_DOCUMENT.write_text(text, encoding="utf-8")
    CAPABILITIES_PAGE.write_text(capabilities.html(what_they_can_do()) + "\n", encoding="utf-8")
