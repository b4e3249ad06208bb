"""The examples in docs/data.md and the keys in docs/recipe.md are what adapterzoo does; ``make docs`` writes both."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, get_args, get_origin

from families import tokenizer
from pydantic import BaseModel
from pydantic_core import PydanticUndefined
from shapes import EXAMPLES

from adapterzoo.data.rows import read_rows
from adapterzoo.formats import FORMATS
from adapterzoo.recipe.schema import DataSection, Recipe
from adapterzoo.report.schema import schema
from adapterzoo.tokens.encode import Encoder
from adapterzoo.tokens.show import marked_text

DATA, RECIPE, SCHEMA = (Path("docs") / name for name in ("data.md", "recipe.md", "comparison.schema.json"))
TEMPLATES: dict[str, dict[str, Any]] = {
    "the question": {"template": "Translate into {language}: {question}"},
    "the whole example": {"template": "问题：{question}\n答案：{answer}", "loss_on": "all"},
}


def preview(cells: dict[str, Any], **settings: Any) -> str:
    """A row as ``adapterzoo preview`` shows it, with a ChatML template."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "row.jsonl"
        path.write_text(json.dumps(cells), encoding="utf-8")
        data = DataSection(source=str(path), **settings)
        (row,), _ = read_rows(data, [str(path)])
    made = tokenizer("chatml")
    example = Encoder(made, data).encode(row)
    assert example is not None
    return marked_text(example, made).plain


def block(kind: str, text: str) -> str:
    return f"```{kind}\n{text}\n```\n"


def formats() -> str:
    parts = []
    for name, form in FORMATS.items():
        cells, _ = EXAMPLES[name]
        shown = json.dumps(cells, ensure_ascii=False)
        parts.append(f"\n**`{name}`**: {form.summary}.\n\n{block('json', shown)}\n{block('text', preview(cells))}")
    return "".join(parts) + "\n"


def templates() -> str:
    cells = {"question": "Hi", "answer": "你好", "language": "Chinese"}
    parts = [f"\n{block('json', json.dumps(cells, ensure_ascii=False))}"]
    for what, settings in TEMPLATES.items():
        written = "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in settings.items())
        parts.append(f"\nFor {what}:\n\n{block('yaml', written)}\n{block('text', preview(cells, **settings))}")
    return "".join(parts) + "\n"


def keys(model: type[BaseModel] = Recipe, path: str = "") -> list[str]:
    lines = []
    for name, field in model.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        sections = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if sections and name != "methods":
            if field.description:
                lines.append(f"| `{path}{name}` |  | {field.description} |\n")
            inner = f"{path}{name}.OPTION." if get_origin(field.annotation) is dict else f"{path}{name}."
            lines += keys(sections[0], inner)
            continue
        default = field.get_default(call_default_factory=True)
        shown = (
            "required" if default is PydanticUndefined else "" if default in (None, [], {}) else f"`{plain(default)}`"
        )
        lines.append(f"| `{path}{name}` | {shown} | {(field.description or '').replace('|', '/')} |\n")
    return lines


def plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, list, dict)) else str(value)


def written(text: str) -> str:
    for name, made in (("formats", formats()), ("templates", templates())):
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(begin)
        text = before + begin + made + end + rest.partition(end)[2]
    return text


def recipe_document() -> str:
    head = RECIPE.read_text(encoding="utf-8").partition("| key |")[0]
    return head + "| key | default | |\n| --- | --- | --- |\n" + "".join(keys())


def test_the_examples_are_what_preview_shows() -> None:
    """If not: ``make docs``."""
    text = DATA.read_text(encoding="utf-8")
    assert written(text) == text
    for name in FORMATS:
        assert f"**`{name}`**" in text


def test_every_key_of_the_recipe_is_documented() -> None:
    """If not: ``make docs``."""
    assert RECIPE.read_text(encoding="utf-8") == recipe_document()
    undescribed = [line for line in keys() if line.endswith("|  |\n")]
    assert not undescribed


def schema_document() -> str:
    return json.dumps(schema(), indent=1) + "\n"


def test_the_schema_of_comparisons_is_the_one_of_its_fields() -> None:
    """If not: ``make docs``."""
    assert SCHEMA.read_text(encoding="utf-8") == schema_document()
    for fields in (schema()["properties"][name]["items"]["properties"] for name in ("rows", "blocks")):
        assert fields


if __name__ == "__main__":
    SCHEMA.write_text(schema_document(), encoding="utf-8")
    DATA.write_text(written(DATA.read_text(encoding="utf-8")), encoding="utf-8")
    RECIPE.write_text(recipe_document(), encoding="utf-8")
