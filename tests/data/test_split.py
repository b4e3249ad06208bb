"""Train, validation and test: no row is in two of them, and the split is the same on every machine."""

from __future__ import annotations

import csv
import random
from pathlib import Path
from typing import Any

import pytest

from adapterzoo.data.split import load_splits, split_rows
from adapterzoo.data_row import DataRow
from adapterzoo.errors import UserError
from adapterzoo.recipe.reading import load_recipe
from adapterzoo.recipe.schema import DataSection

QUICKSTART = Path("recipes/quickstart.yaml")


SHARES = {"train": 0.7, "validation": 0.1, "test": 0.2}


def test_the_split_does_not_depend_on_the_order_of_the_rows() -> None:
    rows = [DataRow.pair(f"q{i}", f"a{i}") for i in range(100)]
    shuffled = random.Random(1).sample(rows, 100)
    first = split_rows(rows, SHARES, 0, "x")
    assert split_rows(shuffled, SHARES, 0, "x") == first
    assert {name: len(part) for name, part in first.items()} == {"train": 70, "validation": 10, "test": 20}
    assert split_rows(rows, SHARES, 1, "x") != first
    assert [row.prompt for row in first["test"][:3]] == ["q39", "q43", "q44"], "the same on any machine"


def test_a_question_is_in_one_split_only() -> None:
    rows = [DataRow.pair(f"q{i % 10}", f"a{i}") for i in range(100)]
    split = split_rows(rows, {"train": 0.6, "validation": 0.2, "test": 0.2}, 0, "x")
    prompts_by_split = [{row.prompt for row in part} for part in split.values()]
    assert (
        not prompts_by_split[0] & prompts_by_split[1]
        | prompts_by_split[0] & prompts_by_split[2]
        | prompts_by_split[1] & prompts_by_split[2]
    )
    assert sum(map(len, prompts_by_split)) == 10


def test_too_few_rows_for_a_split() -> None:
    with pytest.raises(UserError, match=r"2 different prompts are too few.*leaves none for"):
        split_rows([DataRow.pair("a", "b"), DataRow.pair("c", "d")], SHARES, 0, "x")


def load(folder: Path, messages: list[str] | None = None, /, **settings: Any) -> Any:
    section = DataSection(**{"format": "qa", **settings})
    return load_splits(section, (messages if messages is not None else []).append)


def write(path: Path, *rows: tuple[str, ...], header: str = "question,answer") -> str:
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    return str(path)


def test_rows_of_a_group_stay_in_one_split(tmp_path: Path) -> None:
    rows = [(f"q{i}", f"a{i}", f"doc{i % 20}") for i in range(200)]
    source = write(tmp_path / "x.csv", *rows, header="question,answer,document")
    groups = {question: document for question, _, document in rows}
    split = load(tmp_path, source=source, split={"train": 0.6, "validation": 0.2, "test": 0.2, "group_by": "document"})
    groups_by_split = [{groups[row.prompt] for row in part} for part in (split.train, split.validation, split.test)]
    assert [len(groups) for groups in groups_by_split] == [12, 4, 4]
    assert len(set.union(*groups_by_split)) == 20
    with pytest.raises(UserError, match=r"data.split.group_by: there is no column 'dokument'. Did you mean 'document'"):
        load(tmp_path, source=source, split={"group_by": "dokument"})
    with pytest.raises(UserError, match="1 groups are too few"):
        load(tmp_path, source=source, filter={"document": "doc3"}, split={"group_by": "document"})


def test_rows_without_a_group_are_no_group(tmp_path: Path) -> None:
    rows = [(f"q{i}", f"a{i}", "" if i % 5 < 2 else f"doc{i % 40}") for i in range(200)]
    source = write(tmp_path / "x.csv", *rows, header="question,answer,document")
    shares = {"train": 0.8, "validation": 0.1, "test": 0.1}
    for seed in (4, 5):
        split = load(tmp_path, source=source, split={**shares, "group_by": "document", "seed": seed})
        sizes = [len(part) for part in (split.train, split.validation, split.test)]
        assert sum(sizes) == 200
        assert sizes[1] < 30, "80 rows have no document; as one group, all of them were validation rows"
        assert sizes[2] < 30


def test_splits_from_their_own_files(tmp_path: Path) -> None:
    train = [write(tmp_path / f"t{n}.csv", *((f"q{n}{i}", "a") for i in range(10))) for n in (1, 2)]
    test = [write(tmp_path / "test.csv", ("x", "y"))]
    split = load(tmp_path, split={"train": train, "validation": 0.1, "test": test})
    assert (len(split.train), len(split.validation), len(split.test)) == (18, 2, 1)
    split = load(tmp_path, source=train, split={"train": 0.9, "validation": 0.1, "test": test})
    assert (len(split.train), len(split.validation), len(split.test)) == (18, 2, 1)
    split = load(tmp_path, split={"train": train, "validation": 0, "test": test})
    assert (len(split.train), len(split.validation), len(split.test)) == (20, 0, 1)


def test_splits_of_a_saved_dataset(tmp_path: Path) -> None:
    import datasets

    splits = {
        name: datasets.Dataset.from_list([{"question": f"{name}{i}", "answer": "a"} for i in range(n)])
        for name, n in (("train", 4), ("dev", 2), ("test", 3))
    }
    datasets.DatasetDict(splits).save_to_disk(str(tmp_path / "saved"))
    source = str(tmp_path / "saved")
    split = load(tmp_path, source=source, split={"train": "train", "validation": "dev", "test": "test"})
    assert (len(split.train), len(split.validation), len(split.test)) == (4, 2, 3)
    assert split.train[0].place == f"{source} [train], row 1"
    with pytest.raises(UserError, match=r"several splits \(train, dev, test\). Choose them, like data.split"):
        load(tmp_path, source=source)
    with pytest.raises(UserError, match="no split 'valid'"):
        load(tmp_path, source=source, split={"train": "train", "validation": "valid", "test": "test"})


def test_a_row_in_two_splits_is_an_error_or_is_counted(tmp_path: Path) -> None:
    train = [write(tmp_path / "train.csv", ("a", "b"), ("c", "d"), ("e", "f"))]
    test = [write(tmp_path / "test.csv", ("x", "y"), ("c", "d"), ("e", "other"))]
    splits = {"train": train, "validation": 0, "test": test}
    with pytest.raises(UserError) as caught:
        load(tmp_path, split=splits)
    assert "train.csv:3: is in test too (" in str(caught.value)
    assert "test.csv:3)" in str(caught.value)
    assert "1 of 3 training rows are in validation or test too" in str(caught.value)
    messages: list[str] = []
    split = load(tmp_path, messages, split={**splits, "duplicates": "drop"})
    assert [row.prompt for row in split.train] == ["a", "e"]
    other_answer = "data: 1 of 3 test rows have a prompt that is in train with another answer"
    repeated = "data: 1 of 3 training rows are in validation or test too, and are"
    assert messages == [f"{repeated} left out of train", other_answer]
    messages.clear()
    assert len(load(tmp_path, messages, split={**splits, "duplicates": "keep"}).train) == 3
    assert messages == [f"{repeated} kept", other_answer]


def test_a_question_with_another_answer_in_train_is_counted(tmp_path: Path) -> None:
    train = [write(tmp_path / "train.csv", ("a", "b"), ("c", "d"))]
    test = [write(tmp_path / "test.csv", ("x", "y"), ("c", "other"))]
    messages: list[str] = []
    load(tmp_path, messages, split={"train": train, "validation": 0, "test": test})
    assert messages == ["data: 1 of 2 test rows have a prompt that is in train with another answer"]


def test_the_quickstart_data() -> None:
    """The data has over a thousand verbs, no verb is in two splits, and each split has irregular ones."""
    recipe = load_recipe(QUICKSTART)
    split = load_splits(recipe.data)
    with Path(recipe.data.sources[0]).open(encoding="utf-8") as file:
        kinds = {row["verb"]: row["kind"] for row in csv.DictReader(file)}
    assert 1000 <= len(kinds) <= 1500
    verbs_by_split = [[row.prompt for row in verbs] for verbs in (split.train, split.validation, split.test)]
    assert len({verb for verbs in verbs_by_split for verb in verbs}) == sum(map(len, verbs_by_split)) == len(kinds)
    for verbs in verbs_by_split:
        assert 0.08 < sum(kinds[verb] == "irregular" for verb in verbs) / len(verbs) < 0.3


def test_an_unused_source_is_refused_and_unused_rows_are_counted(tmp_path: Path) -> None:
    first, second = (write(tmp_path / f"{n}.csv", *((f"q{n}{i}", "a") for i in range(20))) for n in "ab")
    with pytest.raises(UserError, match=r"data.source: is never read: data.split.train names files of its own"):
        load(tmp_path, source=first, split={"train": [second]})
    messages: list[str] = []
    load(tmp_path, messages, source=first, split={"train": 0.5, "validation": 0.1, "test": 0.1})
    assert messages == ["data: 30% of the rows are in no split: the shares add up to 0.7"]
