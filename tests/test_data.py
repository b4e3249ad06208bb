from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from adapterzoo.data import Row, read_rows, split_rows
from adapterzoo.errors import UserError
from adapterzoo.reading import load_recipe
from adapterzoo.recipe import DataSection, Split

QUICKSTART = Path("recipes/quickstart.yaml")


def section(path: Path, content: str | bytes, **changes: Any) -> DataSection:
    path = path / "rows.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return DataSection(source=str(path), **changes)


def test_text_stays_text(tmp_path: Path) -> None:
    text = '\ufeffquestion,answer\n007,1.50\nnull,NA\n"a,b","say ""x"""\n中文,🙂\n'
    rows = read_rows(section(tmp_path, text))
    assert rows == [Row("007", "1.50"), Row("null", "NA"), Row("a,b", 'say "x"'), Row("中文", "🙂")]


def test_repeated_rows_are_said(tmp_path: Path) -> None:
    said: list[str] = []
    read_rows(section(tmp_path, "question,answer\na,b\na,b\nc,d\n"), said.append)
    assert said == ["data: 1 of 3 rows repeat another one"]


def test_one_column_for_both_sides_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="both the column 'question'"):
        read_rows(section(tmp_path, "question,answer\na,b\n", columns={"answer": "question"}))


def test_rows_with_an_empty_side_are_dropped_and_said(tmp_path: Path) -> None:
    said: list[str] = []
    rows = read_rows(section(tmp_path, "question,answer\na,b\nc,\n , d\ne,f\n"), said.append)
    assert rows == [Row("a", "b"), Row("e", "f")]
    assert said == ["data: 2 of 4 rows dropped: their 'question' or 'answer' is empty"]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "it is empty"),
        ("question,answer\n", "no rows"),
        ("question,answer\na,\nb,\n", "all 2 rows have an empty"),
        ("frage,antwort\na,b\n", "there is no column 'question'"),
        ("question,answers\na,b\n", "Did you mean 'answers'?"),
        ("question,answer,answer\na,b,c\n", "two columns 'answer'"),
        (b"question,answer\n\xff\xfe,b\n", "is not UTF-8"),
        ('question,answer\n"a,b\n', "cannot be read as CSV"),
        (
            "question,answer\na,b\na,b,c,d\n",
            "rows.csv:3: this row has 4 cells, the line of column names 2 (so in 1 rows)",
        ),
        ("question,answer\na,b,\nc,d,\n", "rows.csv:2: this row has 3 cells"),
        ("question;answer\na;b\n", "separated by ';'"),
        ("\nquestion,answer\na,b\n", "does not begin with a line of column names"),
    ],
)
def test_bad_files_are_named_with_the_cure(tmp_path: Path, content: str | bytes, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        read_rows(section(tmp_path, content))
    assert expected in str(caught.value)
    assert "rows.csv" in str(caught.value)


def test_the_split_does_not_depend_on_the_order_of_the_rows() -> None:
    rows = [Row(f"q{i}", f"a{i}") for i in range(100)]
    shuffled = random.Random(1).sample(rows, 100)
    first, second = (split_rows(part, Split(train=0.7, validation=0.1, test=0.2), "x") for part in (rows, shuffled))
    assert first == second
    assert (len(first.train), len(first.validation), len(first.test)) == (70, 10, 20)
    assert split_rows(rows, Split(train=0.7, validation=0.1, test=0.2, seed=1), "x") != first


def test_the_same_question_is_never_on_both_sides() -> None:
    rows = [Row(f"q{i % 10}", f"a{i}") for i in range(100)]
    split = split_rows(rows, Split(train=0.6, validation=0.2, test=0.2), "x")
    sides = [{row.prompt for row in part} for part in (split.train, split.validation, split.test)]
    assert not sides[0] & sides[1] | sides[0] & sides[2] | sides[1] & sides[2]
    assert sum(map(len, sides)) == 10


def test_too_few_rows_for_a_part() -> None:
    with pytest.raises(UserError, match="leaves none for"):
        split_rows([Row("a", "b"), Row("c", "d")], Split(), "x")


def test_the_quickstart_data() -> None:
    """About a thousand verbs; no verb in two parts; irregular ones in all three."""
    recipe = load_recipe(QUICKSTART)
    split = split_rows(read_rows(recipe.data), recipe.data.split, "x")
    with Path(recipe.data.source).open(encoding="utf-8") as file:
        kinds = {row["verb"]: row["kind"] for row in csv.DictReader(file)}
    assert 1000 <= len(kinds) <= 1500
    parts = [[row.prompt for row in part] for part in (split.train, split.validation, split.test)]
    assert len({verb for part in parts for verb in part}) == sum(map(len, parts)) == len(kinds)
    for part in parts:
        assert 0.08 < sum(kinds[verb] == "irregular" for verb in part) / len(part) < 0.3
