"""Check what importing the large libraries leaves out, and that it works all the same."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys, torch
from adapterzoo.machine.memory import spare_imported_modules
compile_now = torch.compile
spare_imported_modules()
assert torch.compile is compile_now
assert "torch._inductor.compile_fx" not in sys.modules, "torch's compiler was imported, which takes a second"
import bitsandbytes
weight = torch.nn.Parameter(torch.ones(64, 64))
optimizer = bitsandbytes.optim.AdamW8bit([weight], lr=0.1)
weight.sum().backward()
optimizer.step()
assert weight.max() < 1
"""


def test_bitsandbytes_works_without_importing_the_compiler() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
