"""Write movie_reviews.csv and sentiment_words.jsonl from the source package of vaderSentiment.

The first has sentences of film reviews with their sentiment; the second has the same sentences as words, with a tag for
each word that the package's lexicon calls positive or negative.

    python recipes/data/make_movie_reviews.py

The ratings are in the archive inside the vaderSentiment 3.3.2 source package (MIT licence, C.J. Hutto): 20 people rated
each sentence from -4 to 4, and the file has their mean. The sentences are those that Pang and Lee collected from
reviews on rottentomatoes.com. The lexicon is the package's own; ten people rated each of its words. The package is
downloaded with pip and read; nothing of it is installed or run. The same package always gives the same files, byte for
byte.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import tarfile
from pathlib import Path

from _download import downloaded

PACKAGE = "vaderSentiment==3.3.2"
SHA256 = "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9"
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
LEXICON = "vaderSentiment-3.3.2/vaderSentiment/vader_lexicon.txt"
RATINGS = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
ROWS = 1200
MIN_RATING = 1.0  # sentences with a weaker mean rating are neither clearly positive nor clearly negative


def main() -> None:
    """Download the package, choose the sentences, and write the files."""
    rated, lexicon = download()
    clear = {text: rating for text, rating in ratings(rated).items() if abs(rating) >= MIN_RATING}
    chosen = sorted(clear, key=lambda text: hashlib.sha256(text.encode()).digest())[:ROWS]
    target = Path(__file__).with_name("movie_reviews.csv")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sentence", "sentiment", "rating"])
        for text in chosen:
            writer.writerow([text, "positive" if clear[text] > 0 else "negative", f"{clear[text]:.2f}"])
    positive = sum(clear[text] > 0 for text in chosen)
    print(f"{target}: {len(chosen)} sentences, {positive} of them positive")
    words = {line.split("\t")[0]: float(line.split("\t")[1]) for line in lexicon.splitlines() if line.strip()}
    tagged = [row for text in chosen if (row := tags(text, words))["tags"].count("O") < len(row["tags"])]
    with target.with_name("sentiment_words.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in tagged)
    print(f"sentiment_words.jsonl: {len(tagged)} sentences")


def tags(text: str, lexicon: dict[str, float]) -> dict[str, list[str]]:
    """Return the words of a sentence, and a tag for each; punctuation is a word of its own."""
    words = re.findall(r"[\w'-]*\w|[^\w\s]", text)
    ratings = [lexicon.get(word.lower(), 0.0) for word in words]
    kinds = ["O" if abs(rating) < MIN_RATING else "B-POS" if rating > 0 else "B-NEG" for rating in ratings]
    return {"words": words, "tags": kinds}


def download() -> tuple[str, str]:
    """Download the source package, and return the ratings and the lexicon as text."""
    with downloaded(PACKAGE, SHA256, "--no-binary", ":all:") as package, tarfile.open(package) as outer:
        lexicon = outer.extractfile(LEXICON).read().decode("utf-8")  # type: ignore[union-attr]  # see below
        inner = outer.extractfile(INNER).read()  # type: ignore[union-attr]  # the checksum says that it is there
    with tarfile.open(fileobj=io.BytesIO(inner)) as archive:
        rated = archive.extractfile(RATINGS).read().decode("utf-8", "replace")  # type: ignore[union-attr]
    return rated, lexicon


def ratings(text: str) -> dict[str, float]:
    """Return sentence -> mean rating; white space in a sentence is one space."""
    found = {}
    for line in text.splitlines():
        _, rating, sentence = line.split("\t", 2)
        found[" ".join(sentence.replace("\N{REPLACEMENT CHARACTER}", " ").split())] = float(rating)
    return found


if __name__ == "__main__":
    main()
