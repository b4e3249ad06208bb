"""Run adapterzoo as a rank that shares GPU 0 with the others: gloo allows that, and NCCL does not."""

from __future__ import annotations

import os

os.environ["LOCAL_RANK"] = "0"

from torch import distributed

from adapterzoo.cli import main

connect = distributed.init_process_group
distributed.init_process_group = lambda backend, **where: connect("gloo", **where)
main()
