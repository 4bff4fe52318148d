"""How much memory is counted, and what a limit on the process changes."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from redoubtable.data.memory import keep_freed_memory

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


FAULTS = """
import resource, sys
import torch
from redoubtable.data.memory import keep_freed_memory

if sys.argv[1] == "keep":
    print(keep_freed_memory(), end=" ")

def batch():
    return [torch.zeros(24 * 2**18) for _ in range(4)]  # of 24 MB each

batch(), batch()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    batch()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(
    not Path("/proc/self/status").exists() or not hasattr(ctypes.CDLL(None), "mallopt"),
    reason="needs Linux with glibc",
)
def test_freed_memory_is_kept_for_the_next_batch() -> None:
    faults = {}
    names = ("MALLOC_", "GLIBC_TUNABLES")
    plain = {k: v for k, v in os.environ.items() if not k.startswith(names)}
    for how in ("keep", "give"):
        done = subprocess.run(
            [sys.executable, "-c", FAULTS, how],
            capture_output=True, text=True, check=True, env=plain | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip
        *kept, count = done.stdout.split()
        assert kept == (["True"] if how == "keep" else [])
        faults[how] = int(count)
    assert faults["give"] > 100, "nothing is given back either: no difference to see"
    assert faults["keep"] < faults["give"] / 10


def test_an_allocator_set_by_the_user_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MALLOC_ARENA_MAX", "1")
    assert keep_freed_memory() is False
