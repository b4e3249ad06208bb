"""Plan comparisons that need many GPUs, and simulate many workers that share one folder.

    python bench/scale.py plan        # memory, time, storage, failures and cost; the tables of docs/scale.md
    python bench/scale.py count       # counts again what the cells of the plan need, after a change of the stack
    python bench/scale.py simulate    # a thousand cells over 64 workers, in virtual time; some minutes

The simulation runs the real queue and the real claims. Only the clock and the training are not real.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "tests" / "support"))


def simulate(cells: int, workers: int, latency: float, late: float, slow: float) -> None:
    """Let workers do cells while some of them die, sleep or are stopped; print what happened."""
    from cluster import NAMES, Cluster, Settings

    settings = Settings(
        cells=cells,
        labels=max(1, cells // 100),
        workers=workers,
        dying=workers // 5,
        sleeping=workers // 10,
        stopped=workers // 5,
        latency=latency,
        late=late,
        slow=slow,
    )
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        cluster = Cluster(Path(folder), settings)
        cluster.run()
    end = max(machine.ended or 0.0 for machine in cluster.machines)
    computed = sum(machine.computed for machine in cluster.machines) / sum(cluster.total.values())
    print(f"{cells} cells, {workers} workers: {settings.dying} die, {settings.sleeping} sleep, {settings.stopped} stop")
    print(f"{len(cluster.results)} cells done, {len(cluster.failed)} failed, {len(cluster.attempts)} begun")
    print(f"cells begun again without a reason: {len(cluster.repeated_without_reason())}")
    print(f"{end / 3600:.1f} hours, of which {cluster.utilisation():.1%} of the workers' time was needed work")
    print(f"computed twice: {computed - 1:.2%}; operations on files: {cluster.operations_per_cell():.0f} for each cell")
    for name, number in cluster.operations.most_common():
        print(f"  {name}: {number / cells:,.1f}" + (" (in the lists, no operations)" if name == NAMES else ""))
    print(f"{time.monotonic() - begun:.0f} seconds of real time")


def main() -> None:
    """Print the plan or the simulation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("plan", "count", "simulate"))
    parser.add_argument("--cells", type=int, default=1000)
    parser.add_argument("--workers", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.001, help="seconds of an operation on a file")
    parser.add_argument("--late", type=float, default=30.0, help="seconds for which a machine may see an old state")
    parser.add_argument("--slow", type=float, default=0.03, help="share of cells that take six times as long")
    given = parser.parse_args()
    import scale_plan

    if given.what == "count":
        scale_plan.write_counts()
    elif given.what == "plan":
        print("\n".join(scale_plan.tables()))
    else:
        simulate(given.cells, given.workers, given.latency, given.late, given.slow)


if __name__ == "__main__":
    main()
