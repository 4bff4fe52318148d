"""How much memory is counted, and what a limit on the process changes."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

HOLES = """
import resource
from pathlib import Path
import torch
from redoubtable.data.memory import keep_to_limit

def used():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(li.split()[1]) for li in lines if li.startswith("VmData")) / 1024

pins = []

def held():
    before = used()
    for size in (14, 15, 16, 17):
        block = torch.zeros(size * 2**18)
        pins.append(bytearray(100_000))  # stands behind the block, which so leaves a hole
        del block
    return used() - before

torch.zeros(31 * 2**18)  # once it is freed, glibc takes blocks of up to 31 MB from its heap
free = keep_to_limit(), held()
resource.setrlimit(resource.RLIMIT_DATA, (8 * 2**30, 8 * 2**30))
limited = keep_to_limit(), held()
print(*free, *limited)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists() or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="needs Linux with glibc",
)
def test_under_a_limit_large_blocks_are_given_back_at_once() -> None:
    done = subprocess.run(
        [sys.executable, "-c", HOLES],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    free, held_free, limited, held_limited = done.stdout.split()
    assert (free, limited) == ("False", "True")
    assert float(held_free) > 14, "without a limit nothing is held either: no difference to see"
    assert float(held_limited) < 1
