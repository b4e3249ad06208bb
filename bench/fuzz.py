"""Give random and damaged inputs to every reader of files, and keep each one that raises an undocumented error.

    python bench/fuzz.py --inputs 200000                  # all readers; an hour or two on one core
    python bench/fuzz.py --inputs 5000 --target recipe    # one reader
    python bench/fuzz.py --inputs 5000 --guided recipe    # one reader, led by new code (needs: pip install atheris)

An input that finds something is made as small as possible, and written to tests/support/fuzz_corpus. From then on
tests/test_fuzz.py tries it.
"""

from __future__ import annotations

import argparse
import hashlib
import logging
import os
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]


def main() -> None:
    """Fuzz each target, and print a line for it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=20_000, help="number of inputs of all targets together")
    parser.add_argument("--target", action="append", help="only this target (repeatable)")
    parser.add_argument("--guided", metavar="TARGET", help="this target, guided by atheris")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1"}
    warnings.simplefilter("ignore")
    logging.disable()  # libraries log each damaged file
    if given.guided:
        fuzz_guided(given.guided, given.inputs, given.seed)
    from fuzzing import CORPUS, TARGETS, fuzz, try_input

    names = given.target or list(TARGETS)
    total, bad = sum(TARGETS[name].share for name in names), 0
    for name in names:
        inputs, begun = given.inputs * TARGETS[name].share // total, time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            found = fuzz(name, inputs, Path(folder), given.seed)
            seconds = time.monotonic() - begun
            print(
                f"{name}: {inputs:,} inputs, {seconds:.0f} s, {'nothing' if found is None else 'found one'}", flush=True
            )
            if found is None:
                continue
            bad += 1
            kept = CORPUS / name / hashlib.sha256(found).hexdigest()[:12]
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(found)
            try:
                try_input(name, found, Path(folder))
            except BaseException:
                traceback.print_exc()
            print(f"kept as {kept.relative_to(ROOT)}", flush=True)
    sys.exit(bool(bad))


def fuzz_guided(name: str, inputs: int, seed: int) -> None:
    """Fuzz a target with atheris, which ends this process; an input that finds something is kept."""
    import atheris

    with tempfile.TemporaryDirectory() as folder:
        with atheris.instrument_imports(include=["adapterzoo", "adapterzoo_plugins"]):
            from fuzzing import CORPUS, first_inputs, try_input

            try_input(name, b"", Path(folder))  # imports what the target needs
        begin = Path(folder) / "begin"
        begin.mkdir()
        for number, content in enumerate(first_inputs(name, 200)):
            (begin / str(number)).write_bytes(content)
        kept = CORPUS / name
        kept.mkdir(parents=True, exist_ok=True)
        options = [f"-runs={inputs}", f"-seed={seed + 1}", f"-artifact_prefix={kept}/", "-handle_alrm=0", str(begin)]
        atheris.Setup([sys.argv[0], *options], lambda content: try_input(name, content, Path(folder)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
