"""Check that docs/data.md, docs/recipe.md and docs/comparison.schema.json are up to date; ``make docs`` writes them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from families import tokenizer
from pydantic import BaseModel, BeforeValidator
from pydantic_core import PydanticUndefined
from shapes import EXAMPLES

from adapterzoo.data.rows import read_rows
from adapterzoo.formats import FORMATS
from adapterzoo.recipe.schema import DataSection, MethodEntry, Recipe
from adapterzoo.recipe.values import Scalar
from adapterzoo.report.schema import schema
from adapterzoo.tokens.encode import Encoder
from adapterzoo.tokens.show import marked_text

NOUNS: dict[Any, str] = {
    str: "text", int: "whole number", float: "number", bool: "true or false", Any: "value", MethodEntry: "method",
}  # fmt: skip
LIMITS = {
    "ge": "at least {:,.10g}", "gt": "above {:,.10g}", "le": "at most {:,.10g}", "lt": "below {:,.10g}",
    "max_length": "at most {} character",
}  # fmt: skip
DATA, RECIPE, SCHEMA = (Path("docs") / name for name in ("data.md", "recipe.md", "comparison.schema.json"))
TEMPLATES: dict[str, dict[str, Any]] = {
    "the question": {"template": "Translate into {language}: {question}"},
    "the whole example": {"template": "问题：{question}\n答案：{answer}", "loss_on": "all"},
}


def preview(cells: dict[str, Any], **settings: Any) -> str:
    """Return a row as ``adapterzoo preview`` shows it, with a ChatML template."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "row.jsonl"
        path.write_text(json.dumps(cells), encoding="utf-8")
        data = DataSection(source=str(path), **settings)
        (row,), _ = read_rows(data, [str(path)])
    chatml = tokenizer("chatml")
    example = Encoder(chatml, data).encode(row)
    assert example is not None
    return marked_text(example, chatml).plain


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


def type_words(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    """Return the type of a key in plain words, like ``whole number, at least 1``."""
    own_words = [item.func.__doc__ for item in metadata if isinstance(item, BeforeValidator)]
    if own_words:
        return str(own_words[-1]).removeprefix("a ")
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return type_words(arguments[0], [part for item in arguments[1:] for part in getattr(item, "metadata", [item])])
    if origin is Literal:
        return f"one of {', '.join(arguments)}"
    if origin in (Union, UnionType):
        kinds = [kind for kind in arguments if kind is not NoneType]
        for group, common in ({*get_args(Scalar)}, Any), ({int, float}, float):
            if group <= set(kinds):
                kinds = [common, *(kind for kind in kinds if kind not in group)]
        return " or ".join(type_words(kind, metadata) for kind in kinds)
    if origin is list:
        first, comma, limits = type_words(arguments[0]).partition(",")
        return f"list of {first}s{comma}{limits}"
    if origin is dict:
        return f"mapping of {' to '.join(map(type_words, arguments))}"
    known = [(item, name) for item in metadata for name in LIMITS if hasattr(item, name)]
    limits = [LIMITS[name].format(getattr(item, name)) for item, name in known]
    return ", ".join([NOUNS[annotation], *limits])


def key_lines(model: type[BaseModel] = Recipe, path: str = "") -> list[str]:
    lines = []
    for name, field in model.model_fields.items():
        kinds = [kind for kind in (field.annotation, *get_args(field.annotation)) if isinstance(kind, type)]
        sections = [kind for kind in kinds if issubclass(kind, BaseModel)]
        if sections and name != "methods":
            if field.description:
                lines.append(f"| `{path}{name}` | section |  | {field.description} |\n")
            inner = f"{path}{name}.OPTION." if get_origin(field.annotation) is dict else f"{path}{name}."
            lines += key_lines(sections[0], inner)
            continue
        default = field.get_default(call_default_factory=True)
        shown = (
            "required" if default is PydanticUndefined else "" if default in (None, [], {}) else f"`{plain(default)}`"
        )
        words, meaning = type_words(field.annotation, field.metadata), (field.description or "").replace("|", "/")
        lines.append(f"| `{path}{name}` | {words} | {shown} | {meaning} |\n")
    return lines


def plain(value: Any) -> str:
    return json.dumps(value) if isinstance(value, (bool, list, dict)) else str(value)


def written(text: str) -> str:
    for name, part in (("formats", formats()), ("templates", templates())):
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, _, rest = text.partition(begin)
        text = before + begin + part + end + rest.partition(end)[2]
    return text


def recipe_document() -> str:
    head = RECIPE.read_text(encoding="utf-8").partition("| key |")[0]
    return head + "| key | type | default | meaning |\n| --- | --- | --- | --- |\n" + "".join(key_lines())


def test_the_examples_are_what_preview_shows() -> None:
    """If this fails, run ``make docs``."""
    text = DATA.read_text(encoding="utf-8")
    assert written(text) == text
    for name in FORMATS:
        assert f"**`{name}`**" in text


def test_every_key_of_the_recipe_is_documented() -> None:
    """If this fails, run ``make docs``."""
    assert RECIPE.read_text(encoding="utf-8") == recipe_document()
    assert not [line for line in key_lines() if line.endswith("|  |\n")], "keys without a description"


def schema_document() -> str:
    return json.dumps(schema(), indent=1) + "\n"


def test_the_schema_of_comparisons_is_up_to_date() -> None:
    """If this fails, run ``make docs``."""
    assert SCHEMA.read_text(encoding="utf-8") == schema_document()
    for fields in (schema()["properties"][name]["items"]["properties"] for name in ("rows", "blocks")):
        assert fields


if __name__ == "__main__":
    SCHEMA.write_text(schema_document(), encoding="utf-8")
    DATA.write_text(written(DATA.read_text(encoding="utf-8")), encoding="utf-8")
    RECIPE.write_text(recipe_document(), encoding="utf-8")
