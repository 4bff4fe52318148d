"""How much memory there is, and the refusal to fill more than that."""

import ctypes
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

_GIB = 2**30
_LARGE = 4 * 2**20
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
"""What glibc's mallopt calls the free end of the heap that is given back, what is taken beyond a
need, and the size from which a block is mapped for itself."""
_GROUP = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device | str) -> int:
    """Return the free memory of a device in bytes; for the processor what a process may still get.

    On Linux that heeds the limits of a container and of the process (`ulimit -d`). Where nothing
    is known of it, it is the whole memory of the machine.
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    if device.type == "mps":
        return torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory()
    known = [n for n in (_available(), _left_in_group(), _left_to_process()) if n is not None]
    return min(known) if known else _whole()


def check_room(what: str, shape: Sequence[int]) -> None:
    """Refuse float32 images that would not fit into the free memory.

    Raises:
        ValueError: they need more than there is.
    """
    needed, free = 4 * math.prod(shape), free_bytes("cpu")
    if needed > free:
        fit = max(1, int(shape[0] * free / needed / 2))
        raise ValueError(
            f"{what} needs {needed / _GIB:.1f} GiB as floats, {shape[0]} images of "
            f"{tuple(shape[1:])}, and {free / _GIB:.1f} GiB are free; take fewer with a limit "
            f"(limit={fit} takes half of it), or use `read` and its batches"
        )


def keep_to_limit() -> bool:
    """Give large blocks back at once where the process has a limit on its data; whether it does.

    glibc otherwise raises its bound for blocks of their own to 32 MB, and keeps smaller ones in a
    heap whose holes count against the limit: chunks of images of ever new sizes then fill a limit
    of 2 GiB that a fifth of it would do for. Mapping each block costs time, up to twice as much in
    a small network, so it is left as it is where there is no limit.
    """
    if _left_to_process() is None:
        return False
    return _mallopt({_MMAP_THRESHOLD: _LARGE})


def keep_freed_memory() -> bool:
    """Keep what is freed for the next batch, which needs as much again; whether it does.

    By itself glibc gives feature maps back to the system after a pass, and the system clears the
    same pages for the next one. The process stays as large as it was at its largest. An allocator
    that the environment sets is left alone.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    # 32 MiB is the most that glibc takes; larger blocks are always mapped for themselves.
    return _mallopt({_MMAP_THRESHOLD: 2**25, _TRIM_THRESHOLD: 2**31 - 1, _TOP_PAD: 2**26})


def _mallopt(settings: Mapping[int, int]) -> bool:
    try:
        return all(bool(ctypes.CDLL(None).mallopt(name, to)) for name, to in settings.items())
    except (OSError, AttributeError, TypeError):  # another C library
        return False


def _left_to_process() -> int | None:
    """What this process may still allocate, where a limit is set on its data."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        if limit == resource.RLIM_INFINITY:
            return None
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
        used = next(1024 * int(li.split()[1]) for li in lines if li.startswith("VmData"))
    except (ImportError, OSError, ValueError, StopIteration):
        return None
    return max(0, limit - used)


def _available() -> int | None:
    """What Linux could give without swapping."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(1024 * int(li.split()[1]) for li in lines if li.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return None


def _left_in_group() -> int | None:
    """What the limit of a container leaves, or None where there is no limit.

    Files that were read and lie in the page cache count as used, but give way at once.
    """
    try:
        limit = (_GROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_GROUP / "memory.current").read_text(encoding="ascii"))
        return None if limit == "max" else max(0, int(limit) - max(0, used - _cached()))
    except (OSError, ValueError):
        return None


def _cached() -> int:
    try:
        lines = (_GROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        return next(int(li.split()[1]) for li in lines if li.startswith("inactive_file "))
    except (OSError, ValueError, StopIteration):
        return 0


def _whole() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
