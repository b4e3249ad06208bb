"""Open text files, and read CSV and TSV files row by row, each row with its file and line.

They are read with the standard library, because ``datasets`` does not know the line of a row.
"""

from __future__ import annotations

import codecs
import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from adapterzoo.errors import UserError

PlacedCells = tuple[str, dict[str, Any]]
"""place of a row, and its cells by column"""
CHECKED_BYTES = 2**16  # number of bytes at the start of a file in which zero bytes are looked for
# A longer row would take gigabytes. Such files have no line ends, or a quote that is never closed.
MAX_ROW_CHARACTERS = 2**25
csv.field_size_limit(MAX_ROW_CHARACTERS)
# First bytes of files that are not text -> what they are, and what to do with them.
OTHER_KINDS = {
    b"\x1f\x8b": ("is compressed with gzip", "Unpack it first (gunzip)."),
    b"BZh": ("is compressed with bzip2", "Unpack it first (bunzip2)."),
    b"\xfd7zXZ": ("is compressed with xz", "Unpack it first (unxz)."),
    b"\x28\xb5\x2f\xfd": ("is compressed with zstd", "Unpack it first (unzstd)."),
    b"PK\x03\x04": ("is a spreadsheet (xlsx) or a zip archive", "Save the sheet as CSV in UTF-8, or unpack it first."),
    b"\xd0\xcf\x11\xe0": ("is an old spreadsheet (xls)", "Save the sheet as CSV in UTF-8."),
    b"PAR1": ("is a Parquet file", "Give it a name that ends with .parquet."),
    b"ARROW1": ("is an Arrow file", "Give it a name that ends with .arrow."),
    b"%PDF": ("is a PDF file", "Give a file with the rows."),
    b"SQLite format 3": ("is an SQLite database", "Export the table as CSV."),
    b"version https://git-lfs": ("is a pointer of Git LFS, and not the file itself", "Run git lfs pull."),
    b"\xff\xfe": ("is UTF-16", "Save it as UTF-8."),
    b"\xfe\xff": ("is UTF-16", "Save it as UTF-8."),
}


def read_csv(path: Path, delimiter: str) -> tuple[list[str], Iterator[PlacedCells]]:
    """Return the columns of a file, by its first line, and its rows; all cells are text.

    Args:
        path: the file.
        delimiter: the character between two cells.

    Raises:
        UserError: the file has no column names or cannot be parsed; also raised while rows are read.
    """
    with open_text(path) as file:
        header = next((cells for _, cells in _csv_rows(file, path, delimiter)), [])
    if not header:
        raise UserError.at(str(path), "does not begin with a line of column names: it is empty, or its first line is.")
    repeated = sorted(column for column, count in Counter(header).items() if count > 1)
    if repeated:
        raise UserError.at(f"{path}:1", f"there are two columns '{repeated[0]}'.", "Rename one of them.")
    other_delimiter = next((character for character in ";\t|" if len(header) == 1 and character in header[0]), None)
    if other_delimiter:
        written = "\\t" if other_delimiter == "\t" else other_delimiter
        raise UserError.at(
            f"{path}:1",
            f"its columns seem to be separated by {other_delimiter!r}, not by {delimiter!r}.",
            f'Set data.delimiter: "{written}".',
        )

    def rows() -> Iterator[PlacedCells]:
        with open_text(path) as file:
            for number, (line, cells) in enumerate(_csv_rows(file, path, delimiter)):
                place = f"{path}:{line}"
                if number == 0 or not cells:
                    continue
                if len(cells) > len(header):
                    what = f"this row has {len(cells)} cells, but there are {len(header)} column names."
                    raise UserError.at(place, what, f"Put text that contains {delimiter!r} in quotes.")
                yield place, dict(zip(header, cells, strict=False))

    return header, rows()


def open_text(path: Path) -> TextIO:
    """Open a text file.

    Raises:
        UserError: it cannot be read, or it is no text.
    """
    try:
        with path.open("rb") as file:
            start = file.read(CHECKED_BYTES)
        for signature, (kind, hint) in OTHER_KINDS.items():
            if start.startswith(signature):
                raise UserError.at(str(path), f"{kind}.", hint)
        if b"\0" in start:
            raise UserError.at(str(path), "is not UTF-8 text: it holds zero bytes.", "Save it as UTF-8.")
        return path.open(encoding="utf-8-sig", newline="")
    except OSError as error:
        raise UserError.at(str(path), f"cannot be read: {error.strerror or error}.") from None


def decoded_lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield the lines of a file; raise UserError if it is not UTF-8."""
    try:
        yield from file
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None


def _csv_rows(file: TextIO, path: Path, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    """Yield each row of a CSV file, with the line at which it begins; a row with line ends in quotes has several."""
    first_line, characters, width = 1, 0, 0
    read: list[str] = []

    def lines() -> Iterator[str]:
        nonlocal characters
        for line in short_lines(file, path):
            characters += len(line)
            read.append(line)
            if characters > MAX_ROW_CHARACTERS:
                what = f"the row that begins here has more than {MAX_ROW_CHARACTERS:,} characters."
                raise UserError.at(f"{path}:{first_line}", what, "Perhaps a quote is not closed.")
            yield line

    reader = csv.reader(lines(), delimiter=delimiter, strict=True)
    try:
        for cells in reader:
            width = width or len(cells)
            # Texts may have lines, but hardly ever tabs that make a whole row of each line.
            if delimiter == "\t" and len(read) > 1 and all(line.count("\t") == width - 1 > 0 for line in read):
                what = f"a quote at the beginning of a cell is closed in line {reader.line_num}, after whole rows."
                hint = "If quotes are ordinary signs here, write such a cell in quotes, and its own quotes twice."
                raise UserError.at(f"{path}:{first_line}", what, hint)
            yield first_line, cells
            first_line, characters = reader.line_num + 1, 0
            read.clear()
    except csv.Error as error:
        hint = ""
        if reader.line_num > first_line:
            hint = f"The row goes on to line {reader.line_num}: close its quote, or write the quote twice."
        raise UserError.at(f"{path}:{first_line}", f"cannot be read as CSV: {error}.", hint) from None


def short_lines(file: TextIO, path: Path) -> Iterator[str]:
    """Yield the lines of a file.

    Raises:
        UserError: a line has more than MAX_ROW_CHARACTERS, or is not UTF-8.
    """
    number = 1
    try:
        while line := file.readline(MAX_ROW_CHARACTERS + 1):
            if len(line) > MAX_ROW_CHARACTERS:
                what = f"this line has more than {MAX_ROW_CHARACTERS:,} characters."
                raise UserError.at(
                    f"{path}:{number}", what, "Does the file have no line ends? Write each row on its own."
                )
            yield line
            number += 1
    except UnicodeDecodeError as error:
        raise not_utf8(path, error) from None


def not_utf8(path: Path, error: UnicodeDecodeError) -> UserError:
    """Return the error with its line, which the decoder does not know because it reads in blocks."""
    decoder, line = codecs.getincrementaldecoder("utf-8")(), 1
    with path.open("rb") as file:
        try:
            while block := file.read(CHECKED_BYTES):
                line += decoder.decode(block).count("\n")
            decoder.decode(b"", final=True)
        except UnicodeDecodeError as found:
            line += found.object[: found.start].count(b"\n")
            return UserError.at(f"{path}:{line}", f"is not UTF-8: {found.reason}.", "Save it as UTF-8.")
    return UserError.at(str(path), f"is not UTF-8: {error.reason}.", "Save it as UTF-8.")
