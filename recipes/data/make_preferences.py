"""Write past_tense_preferences.csv and movie_review_pairs.csv from the other files of this folder.

    python recipes/data/make_preferences.py

In the first file the chosen answer is the past tense of a verb, and the rejected one is spelled as if the verb were
plainer than it is: goed, stoped, carryed. In the second file the chosen sentence of two is the more positive one. The
same files always give the same pairs.
"""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

HERE = Path(__file__).parent
PAIRS = 900


def main() -> None:
    """Write both files."""
    verbs = read("past_tense.csv")
    rows = [[row["verb"], row["past"], misspelled(row["verb"], row["past"])] for row in verbs]
    write("past_tense_preferences.csv", ["verb", "chosen", "rejected"], rows)
    reviews = sorted(read("movie_reviews.csv"), key=lambda row: digest(row["sentence"]))
    liked, disliked = (
        [row["sentence"] for row in reviews if row["sentiment"] == sentiment] for sentiment in ("positive", "negative")
    )
    # Each sentence is in two pairs at most, and each pair is there once.
    pairs = [[good, bad] for shift in (0, 1) for good, bad in zip(liked, disliked[shift:], strict=False)]
    pairs.sort(key=lambda pair: digest("\0".join(pair)))
    write("movie_review_pairs.csv", ["chosen", "rejected"], pairs[:PAIRS])


def misspelled(verb: str, past: str) -> str:
    """Return the first spelling with -ed that is wrong."""
    return next(form for form in (verb + "ed", verb + "d", verb + verb[-1] + "ed") if form != past)


def digest(text: str) -> bytes:
    """Return a hash to order texts by, so that the order has nothing to do with their content."""
    return hashlib.sha256(text.encode()).digest()


def read(name: str) -> list[dict[str, str]]:
    """Return the rows of a file of this folder."""
    with (HERE / name).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(name: str, columns: list[str], rows: list[list[str]]) -> None:
    """Write rows to a file of this folder."""
    with (HERE / name).open("w", encoding="utf-8", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([columns, *rows])
    print(f"{name}: {len(rows)} rows")


if __name__ == "__main__":
    main()
