"""Reading rows: text stays as it is written, rows that are left out are counted, and errors name the file and line."""

from __future__ import annotations

import datetime
import gzip
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from adapterzoo.data.rows import read_rows
from adapterzoo.data_row import DataRow
from adapterzoo.errors import UserError
from adapterzoo.recipe.files import find_source
from adapterzoo.recipe.schema import DataSection


def read(
    folder: Path, content: str | bytes, name: str = "rows.csv", **settings: Any
) -> tuple[list[DataRow], list[str]]:
    """Return the rows of a file with this content, and the messages."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_file(path, **settings)


def read_file(*paths: Path, **settings: Any) -> tuple[list[DataRow], list[str]]:
    messages: list[str] = []
    names = [str(path) for path in paths]
    rows, _ = read_rows(DataSection(**{"source": names, "format": "qa", **settings}), names, None, messages.append)
    return rows, messages


QA = [
    DataRow.pair("007", "1.50"),
    DataRow.pair("null", "NA"),
    DataRow.pair("a,b", 'say "x"'),
    DataRow.pair("中文", "مرحبا 🙂"),
]


def test_text_stays_text(tmp_path: Path) -> None:
    text = '\ufeffquestion,answer\n007,1.50\nnull,NA\n"a,b","say ""x"""\n中文,مرحبا 🙂\n'
    assert read(tmp_path, text)[0] == QA


def test_a_quote_that_is_an_ordinary_sign_does_not_join_rows(tmp_path: Path) -> None:
    text = 'question\tanswer\nwho?\t"No one\nwhat?\tA box\nwhy?\tThe end\nhow?\tthat is all"\nx\ty\n'
    with pytest.raises(UserError, match=r"rows.tsv:2: a quote at the beginning of a cell is closed in line 5, after"):
        read(tmp_path, text, "rows.tsv")
    lines = 'question\tanswer\nwho?\t"No one.\nReally."\n"how\tto\nget\tthere"\ty\n'
    assert [row.completion for row in read(tmp_path, lines, "rows.tsv")[0]] == ["No one.\nReally.", "y"]


def as_csv(path: Path, frame: Any) -> None:
    frame.to_csv(path)  # with the index column, which people forget to leave out


def saved(path: Path, frame: Any) -> None:
    import datasets

    datasets.Dataset.from_pandas(frame).save_to_disk(str(path))


def arrow(path: Path, frame: Any) -> None:
    import pyarrow

    table = pyarrow.Table.from_pandas(frame)
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table)


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("rows.csv", as_csv),
        ("rows.tsv", lambda path, frame: frame.to_csv(path, sep="\t", index=False)),
        ("rows.json", lambda path, frame: frame.to_json(path)),
        ("records.json", lambda path, frame: frame.to_json(path, orient="records", indent=1)),
        ("lines.json", lambda path, frame: frame.to_json(path, orient="records", lines=True)),
        ("rows.jsonl", lambda path, frame: frame.to_json(path, orient="records", lines=True, force_ascii=False)),
        ("data.json", lambda path, frame: path.write_text(json.dumps({"data": frame.to_dict("records")}))),
        ("rows.parquet", lambda path, frame: frame.to_parquet(path)),
        ("rows.arrow", arrow),
        ("folder", saved),
    ],
)
def test_every_kind_of_file_that_pandas_and_datasets_write(
    name: str, write: Callable[[Path, Any], None], tmp_path: Path
) -> None:
    from pandas import DataFrame

    frame = DataFrame([{"question": row.prompt, "answer": row.completion} for row in QA])
    write(tmp_path / name, frame)
    names, problem = find_source(name, tmp_path)
    assert problem is None
    assert read_file(Path(names[0]))[0] == QA


def test_dates_and_numbers_in_json_are_what_is_written(tmp_path: Path) -> None:
    """The JSON reader of datasets makes the date a timestamp, and 1.50 the number 1.5."""
    text = '{"question": "2020-01-01", "answer": 1.50}\n{"question": "2020-02-01", "answer": 2}\n'
    assert read(tmp_path, text, "rows.jsonl")[0] == [
        DataRow.pair("2020-01-01", "1.50"),
        DataRow.pair("2020-02-01", "2"),
    ]


def test_dates_and_numbers_of_typed_columns_become_text(tmp_path: Path) -> None:
    from pandas import DataFrame

    frame = DataFrame({"question": [datetime.date(2020, 1, 2)] * 3, "answer": [1.5, None, 2.0]})
    frame.to_parquet(tmp_path / "rows.parquet")
    rows, messages = read_file(tmp_path / "rows.parquet")
    assert rows == [DataRow.pair("2020-01-02", "1.5"), DataRow.pair("2020-01-02", "2.0")]
    assert "1 of 3 rows dropped: 'answer' is empty (first: " in messages[0]
    assert "row 2" in messages[0]


def test_several_files_and_a_pattern(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"{number}.csv").write_text(f"question,answer\nq{number},a\n")
    names, problem = find_source("*.csv", tmp_path)
    assert problem is None
    assert [row.prompt for row in read_file(*map(Path, names))[0]] == ["q1", "q2"]
    (tmp_path / "2.csv").write_text("question,anwser\nq,a\n")
    with pytest.raises(UserError, match=r"2.csv: lacks the column 'answer' that .*1.csv has. Did you mean 'anwser'"):
        read_file(*map(Path, names))
    (tmp_path / "2.csv").write_text("question,answer,x\nq,a,1\n")
    with pytest.raises(UserError, match=r"has a column 'x' that .*1.csv lacks. .*data.drop_columns: \[x\]"):
        read_file(*map(Path, names))
    assert len(read_file(*map(Path, names), drop_columns=["x"])[0]) == 2


def test_rows_know_their_line(tmp_path: Path) -> None:
    rows, _ = read(tmp_path, 'question,answer\n"a\nb",c\n\nd,e\n')
    assert [row.place.rpartition("/")[2] for row in rows] == ["rows.csv:2", "rows.csv:5"]
    assert rows[0].prompt == "a\nb"


def test_repeated_rows_are_counted(tmp_path: Path) -> None:
    assert read(tmp_path, "question,answer\na,b\na,b\nc,d\n")[1] == ["data: 1 of 3 rows repeat another row"]


def test_one_column_for_question_and_answer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the column 'question' is used twice"):
        read(tmp_path, "question,answer\na,b\n", columns={"answer": "question"})


def test_rows_with_an_empty_cell_are_dropped_and_counted(tmp_path: Path) -> None:
    rows, messages = read(tmp_path, "question,answer\na,b\nc,\n , d\ne,f\n")
    assert rows == [DataRow.pair("a", "b"), DataRow.pair("e", "f")]
    assert [line.replace(str(tmp_path), "") for line in messages] == [
        "data: 1 of 4 rows dropped: 'answer' is empty (first: /rows.csv:3)",
        "data: 1 of 4 rows dropped: 'question' is empty (first: /rows.csv:4)",
    ]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "it is empty"),
        ("question,answer\n", "no rows"),
        ("question,answer\na,\nb,\n", "all 2 rows have an empty 'answer'"),
        ("frage,antwort\na,b\n", "rows.csv:1: there is no column 'question'"),
        ("question,answers\na,b\n", "Did you mean 'answers'?"),
        ("question,answer,answer\na,b,c\n", "two columns 'answer'"),
        (b"question,answer\na,b\n\xff\xfe,b\n", "rows.csv:3: is not UTF-8"),
        ('question,answer\n"a,b\n', "cannot be read as CSV"),
        ("question,answer\na,b\na,b,c,d\n", "rows.csv:3: this row has 4 cells, but there are 2 column names."),
        ("question,answer\na,b,\nc,d,\n", "rows.csv:2: this row has 3 cells"),
        ("question;answer\na;b\n", "separated by ';', not by ','. Set data.delimiter: \";\""),
        ("\nquestion,answer\na,b\n", "does not begin with a line of column names"),
    ],
)
def test_errors_of_csv_files_name_the_file_and_give_a_hint(tmp_path: Path, content: str | bytes, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    assert expected in str(caught.value)
    assert "rows.csv" in str(caught.value)


def test_another_delimiter(tmp_path: Path) -> None:
    assert read(tmp_path, "question;answer\na,b;c\n", delimiter=";")[0] == [DataRow.pair("a,b", "c")]
    with pytest.raises(UserError, match=r"this row has 3 cells, .*\. Put text that contains ';' in quotes\."):
        read(tmp_path, "question;answer\na;b;c\n", delimiter=";")


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("rows.jsonl", '{"question": "a", "answer": "b"}\n{"question": "a",\n', "rows.jsonl:2: is not JSON"),
        ("rows.jsonl", '{"question": "a", "answer": "b"}\n[1]\n', "rows.jsonl:2: is not an object"),
        ("rows.jsonl", '{"question": "a", "answer": ["b"]}\n', "rows.jsonl:1: 'answer' is a list, not text"),
        (
            "rows.jsonl",
            '{"question": "a", "answer": "b"}\n{"question": "a", "answer": 3}\n',
            "rows.jsonl:2: 'answer' is a number here and text in",
        ),
        ("rows.jsonl", '{"question": "\\ud800", "answer": "b"}\n', "rows.jsonl:1: 'question' holds half a character"),
        ("rows.json", '[{"question": "a"},\n {"question" "b"}]', "rows.json:2: is not JSON"),
        ("rows.json", '"question"', "rows.json: holds no list of objects"),
        ("rows.json", "", "is empty"),
        ("rows.json", '[{"question": "a", "answer": {"x": 1}}]', "rows.json, row 1: 'answer' is a dict, not text"),
        ("rows.parquet", "PAR1 and nonsense", "rows.parquet: cannot be read"),
        ("rows.arrow", "nonsense", "rows.arrow: cannot be read"),
    ],
)
def test_errors_of_other_files_name_the_line_or_row(tmp_path: Path, name: str, content: str, expected: str) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, content, name)
    assert expected in str(caught.value)


def test_many_bad_rows_are_counted_or_dropped(tmp_path: Path) -> None:
    lines = ['{"question": "q", "answer": "a"}', *['{"question": "q", "answer": []}'] * 9]
    content = "\n".join(lines)
    with pytest.raises(UserError) as caught:
        read(tmp_path, content, "rows.jsonl")
    assert len(caught.value.problems) == 6
    assert "4 more rows are not usable either. data.bad_rows: drop" in str(caught.value)
    rows, messages = read(tmp_path, content, "rows.jsonl", bad_rows="drop")
    assert len(rows) == 1
    assert "9 of 10 rows dropped as unusable (first: " in messages[0]
    with pytest.raises(UserError, match="none of 2 rows is usable"):
        read(tmp_path, lines[1] + '\n{"question": "q", "answer": ""}', "rows.jsonl", bad_rows="drop")


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "make.py").write_text("")
    (tmp_path / "rows.xlsx").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "x.csv").write_text("")
    for name, expected in {
        "none.csv": "there is no file",
        "make.py": "is a script, and scripts are never run",
        "rows.xlsx": "is not of a known kind. Its name must end with",
        "folder": "is a folder, but not a dataset that save_to_disk wrote. Name its files, like folder/*.csv",
        "no/such/file": "there is no file",
        "data/none.jsonl": "there is no file",
        "~nobody/x.csv": "there is no file",
        "x\0.csv": "there is no file",
        "x\0*.csv": "there is no file",
        "~nobody/*.csv": "there is no file",
    }.items():
        _, problem = find_source(name, tmp_path)
        assert problem is not None, name
        assert expected in str(problem), name
    assert find_source("owner/name", tmp_path) == (["owner/name"], None)


def table(tmp_path: Path, count: int = 100) -> Path:
    path = tmp_path / "many.csv"
    lines = [f"q{i},a{i},{'en' if i % 4 else 'de'},{i % 2 == 0}" for i in range(count)]
    path.write_text("question,answer,language,even\n" + "\n".join(lines) + "\n")
    return path


def test_rows_are_filtered_by_the_values_of_columns(tmp_path: Path) -> None:
    path = table(tmp_path)
    rows, messages = read_file(path, filter={"language": "de"})
    assert [row.prompt for row in rows] == [f"q{i}" for i in range(0, 100, 4)]
    assert messages == ["data: 75 of 100 rows left out by data.filter"]
    assert read_file(path, filter={"language": "DE"})[0] == rows
    assert len(read_file(path, filter={"language": ["de", "en"], "even": True})[0]) == 50
    with pytest.raises(UserError, match=r"data.filter: leaves none of 100 rows. .*seen: language: 'de', 'en'"):
        read_file(path, filter={"language": "fr"})
    with pytest.raises(UserError, match=r"data.filter: there is no column 'langauge'. Did you mean 'language'"):
        read_file(path, filter={"langauge": "en"})
    with pytest.raises(UserError, match=r"data.drop_columns: there is no column 'x'"):
        read_file(path, drop_columns=["x"])


def test_the_first_rows_and_a_shuffle_that_is_the_same_everywhere(tmp_path: Path) -> None:
    path = table(tmp_path)
    assert [row.prompt for row in read_file(path, limit=3)[0]] == ["q0", "q1", "q2"]
    whole = [row.prompt for row in read_file(path, shuffle=7)[0]]
    assert sorted(whole) == sorted(f"q{i}" for i in range(100))
    assert [row.prompt for row in read_file(path, shuffle=7, limit=5)[0]] == whole[:5]
    assert whole[:5] == ["q47", "q39", "q62", "q97", "q53"], "the order comes from SHA-256, and not from a library"
    assert [row.prompt for row in read_file(path, shuffle=8, limit=5)[0]] != whole[:5]


def test_limit_counts_usable_rows_only_and_reads_no_further(tmp_path: Path) -> None:
    content = "question,answer\na,\nb,c\nd,e\nf,g,far,too,long\n"
    assert [row.prompt for row in read(tmp_path, content, limit=2)[0]] == ["b", "d"]


def test_a_file_of_gigabytes_is_streamed(tmp_path: Path) -> None:
    """The sparse file has 8 GB and starts with rows; reading it whole would fill the memory."""
    path = tmp_path / "huge.jsonl"
    with path.open("w") as file:
        for number in range(10_000):
            file.write(json.dumps({"question": f"q{number}", "answer": "a"}) + "\n")
        file.truncate(8 * 2**30)
    import tracemalloc

    tracemalloc.start()
    assert len(read_file(path, limit=500)[0]) == 500
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()


def test_the_order_of_a_shuffle_does_not_depend_on_the_random_module(tmp_path: Path) -> None:
    path = table(tmp_path)
    random.seed(1)
    first = read_file(path, shuffle=0)
    random.seed(2)
    assert read_file(path, shuffle=0) == first


def test_a_class_label_becomes_its_name(tmp_path: Path) -> None:
    import datasets

    features = datasets.Features(
        {"question": datasets.Value("string"), "answer": datasets.ClassLabel(names=["no", "yes"])}
    )
    table = datasets.Dataset.from_dict({"question": ["a", "b"], "answer": [1, 0]}, features=features)
    table.save_to_disk(str(tmp_path / "saved"))
    assert read_file(tmp_path / "saved")[0] == [DataRow.pair("a", "yes"), DataRow.pair("b", "no")]


@pytest.mark.parametrize("orient", ["columns", "records", "index", "split", "table"])
def test_every_json_orientation_of_pandas_that_names_columns(orient: str, tmp_path: Path) -> None:
    from pandas import DataFrame

    frame = DataFrame([{"question": row.prompt, "answer": row.completion} for row in QA])
    frame.to_json(tmp_path / "rows.json", orient=orient)
    assert read_file(tmp_path / "rows.json")[0] == QA


def test_files_that_are_not_text_and_a_pipe(tmp_path: Path) -> None:
    import os

    for name in ("rows.csv", "rows.json"):
        with pytest.raises(UserError, match="holds zero bytes"):
            read(tmp_path, b"question,answer\n\0\0\n", name)
    with pytest.raises(UserError, match="nested too deeply"):
        read(tmp_path, "[" * 100_000, "rows.json")
    os.mkfifo(tmp_path / "pipe.csv")
    _, problem = find_source("pipe.csv", tmp_path)
    assert problem is not None
    assert "is not an ordinary file" in str(problem)


def test_a_key_that_a_row_has_twice_is_named(tmp_path: Path) -> None:
    lines = '{"question": "a", "answer": "b"}\n{"question": "c", "answer": "d", "answer": "e"}\n'
    with pytest.raises(UserError, match=r"rows.jsonl:2: the key 'answer' is given twice, with different values"):
        read(tmp_path, lines, "rows.jsonl")
    with pytest.raises(UserError, match=r"rows.json: the key 'answer' is given twice"):
        read(tmp_path, "[\n" + lines.replace("\n", ",\n", 1) + "]", "rows.json")
    nested = '{"question": "a", "answer": "b", "more": {"x": 1, "x": 2}}\n'
    with pytest.raises(UserError, match=r"rows.jsonl:1: the key 'x'"):
        read(tmp_path, nested, "rows.jsonl")
    same = '{"question": "c", "answer": "d", "answer": "d"}\n'
    assert read(tmp_path, same, "rows.jsonl")[0] == [DataRow.pair("c", "d")]


def test_an_optional_column_can_be_dropped_and_must_exist_if_it_is_mapped(tmp_path: Path) -> None:
    text = "instruction,input,output\nTranslate.,Hi,Hallo\n"
    (row,), _ = read(tmp_path, text, format="alpaca", drop_columns=["input"])
    assert row.prompt == "Translate."
    with pytest.raises(UserError, match="there is no column 'context'"):
        read(tmp_path, text, format="alpaca", columns={"input": "context"})


def lines_of(rows: list[dict[str, str]]) -> str:
    return "".join(f"{json.dumps(row)}\n" for row in rows)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        (
            "rows.csv",
            f"question,answer\na,b\nc,{'x' * 3000}\n",
            "rows.csv:3: 'answer' has 3,000 characters, and at most",
        ),
        (
            "rows.jsonl",
            lines_of([{"question": "a", "answer": "x" * 3000}]),
            "rows.jsonl:1: 'answer' has 3,000 characters",
        ),
        ("rows.json", json.dumps([{"question": "x" * 3000, "answer": "b"}]), "row 1: 'question' has 3,000 characters"),
        ("rows.csv", f"question,answer\na,{'x' * 9000}", "rows.csv:2: this line has more than 5,000 characters. Does"),
        ("rows.csv", "a," * 9000, "rows.csv:1: this line has more than 5,000 characters"),
        ("rows.jsonl", '{"question": "' + "x" * 9000, "rows.jsonl:1: this line has more than 5,000 characters"),
        ("rows.csv", 'question,answer\na,b\nc,"d\n' + "e,f\n" * 3000, "rows.csv:3: the row that begins here has more"),
        ("rows.csv", "question,answer\na,b\nc" + ',"\n"' * 3000, "rows.csv:3: the row that begins here has more"),
        (
            "rows.csv",
            'question,answer\na,b\n"c,d\n' + "e,f\n" * 9,
            "rows.csv:3: cannot be read as CSV: unexpected end of",
        ),
        ("rows.csv", 'question,answer\n"c,d\ne,f\n"g",h\n', "The row goes on to line 4: close its quote, or write"),
    ],
)
def test_rows_that_are_too_long_are_named_by_their_first_line(
    name: str, content: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from adapterzoo.data import shape, text_files

    monkeypatch.setattr(shape, "MAX_CELL_CHARACTERS", 2000)
    monkeypatch.setattr(text_files, "MAX_ROW_CHARACTERS", 5000)
    with pytest.raises(UserError) as caught:
        read(tmp_path, content, name)
    assert expected in str(caught.value)


def test_a_cell_of_20_mb_is_refused_before_it_is_tokenized(tmp_path: Path) -> None:
    text = "x" * 20_000_000
    rows = [{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": text}]}]
    with pytest.raises(UserError, match=r"'messages' has 20,000,0.. characters, and at most 1,000,000 can be read"):
        read(tmp_path, lines_of([*rows, *rows]), "rows.jsonl", format="messages")
    unused = read(tmp_path, f"question,answer,image\na,b,{text}\n")
    assert unused[0] == [DataRow.pair("a", "b")], "columns that are not used may hold anything"
    kept, _ = read(tmp_path, f"question,answer\na,b\nc,{text}\n", bad_rows="drop")
    assert kept == [DataRow.pair("a", "b")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (gzip.compress(b"question,answer\n", mtime=0), "is compressed with gzip. Unpack it first"),
        (b"PK\x03\x04\x14\0", "is a spreadsheet (xlsx) or a zip archive. Save the sheet as CSV in UTF-8"),
        (b"PAR1\x15\0", "is a Parquet file. Give it a name that ends with .parquet."),
        ("question,answer\n".encode("utf-16"), "is UTF-16. Save it as UTF-8."),
        (
            b"version https://git-lfs.github.com/spec/v1\noid",
            "is a pointer of Git LFS, and not the file itself. Run git",
        ),
        (b"question,answer\n" + b"a,b\n" * 30_000 + b"a,\xe4\n", "rows.csv:30002: is not UTF-8: invalid continuation"),
        (b"question,answer\na,b\nc,\xe4", "rows.csv:3: is not UTF-8: unexpected end of data"),
    ],
)
def test_other_kinds_of_files_are_named(content: bytes, expected: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        read(tmp_path, content)
    assert expected in str(caught.value)


@pytest.mark.parametrize("cell", ["true", "3", '"text"', "{}", "[[]]", "[1]"])
def test_messages_that_are_no_list_of_messages(cell: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="messages"):
        read(tmp_path, f'{{"messages": {cell}}}\n', "rows.jsonl", format="messages")
