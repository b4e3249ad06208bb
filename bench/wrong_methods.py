"""Run the conformance kit on methods that are wrong by a line or two, and print how many it finds, and by what.

    python bench/wrong_methods.py                  # all kinds; an hour on two cores
    python bench/wrong_methods.py merging          # one kind
    python bench/wrong_methods.py --sample 2       # two methods of each kind, as in the tests

The methods are in tests/support/wrong; their authors had not seen the kit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]


def main() -> None:
    """Run the kit, and print a line for each method and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", help="kinds of wrong methods; all of them by default")
    parser.add_argument("--sample", type=int, help="only so many methods of each kind")
    parser.add_argument("--names", default="", help="only the methods with these names, separated by commas")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, help="file for one line of JSON for each method")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    from wrong import KINDS

    names = set(filter(None, given.names.split(",")))
    work = [
        (kind, number)
        for kind in given.kinds or KINDS
        for number, wrong in enumerate(KINDS[kind][: given.sample])
        if not names or wrong.method.name in names
    ]
    found: list[dict[str, Any]] = []
    # Each method has a process of its own, because some of them damage it for the next.
    with get_context("spawn").Pool(given.jobs, maxtasksperchild=1) as pool:
        for entry in pool.imap(examine, work):
            found.append(entry)
            print(
                f"{entry['kind']:16} {entry['name']:32} {entry['case']:18} {entry['seconds']:5.1f} s  "
                f"{', '.join(entry['by']) or 'NOT FOUND: ' + entry['why']}",
                flush=True,
            )
            if given.out:
                with given.out.open("a") as file:
                    file.write(json.dumps(entry) + "\n")
    print(table(found))


def examine(item: tuple[str, int]) -> dict[str, Any]:
    """Run the cases of one wrong method, the usual ones and then the thorough one, until one of them fails."""
    from wrong import KINDS

    from adapterzoo.conformance import cases, task_cases

    kind, number = item
    wrong = KINDS[kind][number]
    method, begun = wrong.method(), time.monotonic()
    found: dict[str, str] = {}
    at = "-"
    usual = [(case, False) for case in (*cases(method), *task_cases(method))]
    for case, thorough in [*usual[:6], *((case, True) for case in cases(method)[:1]), *usual[6:]]:
        report = case.run(thorough=thorough)
        if report.failures:
            found, at = report.failures, f"{report.architecture} {report.what}" + (" thorough" if thorough else "")
            break
    seconds = time.monotonic() - begun
    return {
        "kind": kind, "name": method.name, "why": wrong.why, "by": list(found), "case": at, "seconds": seconds,
        "failures": found,
    }  # fmt: skip


def table(found: list[dict[str, Any]]) -> str:
    """Return a markdown table: kind, tried, found, and the properties by which most were found."""
    lines = ["| kind | tried | found | by |", "| --- | --- | --- | --- |"]
    for kind in dict.fromkeys(entry["kind"] for entry in found):
        own = [entry for entry in found if entry["kind"] == kind]
        by = Counter(name for entry in own for name in entry["by"])
        names = ", ".join(f"{name} ({count})" for name, count in by.most_common(6))
        lines.append(f"| {kind.replace('_', ' ')} | {len(own)} | {sum(bool(e['by']) for e in own)} | {names} |")
    total = sum(bool(entry["by"]) for entry in found)
    return "\n".join([*lines, f"| all | {len(found)} | {total} | |"])


if __name__ == "__main__":
    main()
