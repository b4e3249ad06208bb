"""Send a signal to a run at many points, give the same command again, and compare with a run that was not disturbed.

    python bench/kill_points.py              # two signals at every kind of file and phase; half an hour on two cores
    python bench/kill_points.py --spread 1   # one at each

Adapters, predictions, tokens, results (without times and memory) and the files around them must be the same bytes.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT / "tests" / "support")]


def main() -> None:
    """Run the trials, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spread", type=int, default=2, help="number of points at each kind of event")
    parser.add_argument("--points", type=int, help="only so many points")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    from killing import trials

    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        for point, problems in trials(Path(folder), given.spread, random.Random(given.seed), given.points):
            bad += bool(problems)
            print(f"{point}: {'; '.join(problems) or 'same'}", flush=True)
    print(f"{bad} trials with differences")
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
