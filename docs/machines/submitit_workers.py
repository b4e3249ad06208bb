"""Start workers of adapterzoo with submitit: on a Slurm cluster, or on this machine where there is none.

python docs/machines/submitit_workers.py runs/my --workers 8
"""

from __future__ import annotations

import argparse

import submitit


def main() -> None:
    """Start the workers, and wait for them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="output folder with a plan")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--cluster", choices=("slurm", "local"), help="[slurm if this machine has it]")
    parser.add_argument("--gpus", type=int, default=0, help="GPUs of each worker")
    parser.add_argument("--cpus", type=int, default=4, help="cores of each worker")
    parser.add_argument("--hours", type=float, default=12)
    given = parser.parse_args()
    executor = submitit.AutoExecutor(folder=f"{given.folder}-logs", cluster=given.cluster)
    executor.update_parameters(
        timeout_min=int(given.hours * 60), gpus_per_node=given.gpus, cpus_per_task=given.cpus, name="adapterzoo"
    )
    work = submitit.helpers.CommandFunction(["adapterzoo", "work", given.folder])
    jobs = [executor.submit(work) for _ in range(given.workers)]
    for job in jobs:
        job.wait()
    # A worker ends with an error if a cell has failed; adapterzoo compare says why.
    failed = sum(job.exception() is not None for job in jobs)
    print(f"Workers that have ended: {len(jobs)}, with an error: {failed}. Their output: {given.folder}-logs")
    raise SystemExit(1 if failed else 0)


if __name__ == "__main__":
    main()
