#!/bin/bash
# Workers of adapterzoo as a Slurm array: sbatch docs/machines/slurm.sh runs/my
#SBATCH --job-name=adapterzoo
#SBATCH --array=1-8
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=12:00:00
#SBATCH --requeue
# Two minutes before the time is up, each worker saves its cell and leaves it to the others.
#SBATCH --signal=TERM@120
# exec: the signal has to reach the worker, not this shell.
exec adapterzoo work "$1"
