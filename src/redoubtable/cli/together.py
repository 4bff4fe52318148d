"""`--processes N`: the same command in several processes of this machine."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_FELLOW = "REDOUBT_FELLOW"


def is_fellow() -> bool:
    """Whether another process of `--processes` has started this one."""
    return _FELLOW in os.environ


def is_launched() -> bool:
    """Whether torchrun or accelerate launch, or `--processes` of another, has started this one."""
    return "WORLD_SIZE" in os.environ


def share_cores(processes: int) -> None:
    """Give this process its share of the processor's cores, unless OMP_NUM_THREADS says it."""
    if processes > 1 and "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, torch.get_num_threads() // processes))
        os.environ["OMP_NUM_THREADS"] = str(torch.get_num_threads())


@contextmanager
def together(processes: int) -> Iterator[None]:
    """Run a block in this process, as the first of several that give the same command.

    The processor's cores are shared out: OMP_NUM_THREADS, where it is set, says how many threads
    each has. Whatever torchrun or accelerate launch has started stays as it is.

    Args:
        processes: how many, this one included.

    Raises:
        ValueError: there are none, or another launcher has started this one.
    """
    if processes < 1:
        raise ValueError(f"`processes` must be at least 1, got {processes}")
    if is_fellow():
        threading.Thread(target=_end_with_the_first, daemon=True).start()
    if processes == 1 or is_fellow():
        yield
        return
    if is_launched():
        raise ValueError(
            f"`processes` must be 1 where torchrun or accelerate launch starts them, got "
            f"{processes}; leave --processes out"
        )
    share_cores(processes)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": processes, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    shared |= {"OMP_NUM_THREADS": torch.get_num_threads(), _FELLOW: 1}
    fellows = [
        subprocess.Popen(
            [sys.executable, "-m", "redoubtable", *sys.argv[1:]],
            env=os.environ | {k: str(v) for k, v in _numbered(shared, rank).items()},
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
        )
        for rank in range(1, processes)
    ]
    os.environ |= {k: str(v) for k, v in _numbered(shared, 0).items()}
    try:
        yield
        for fellow in fellows:
            fellow.wait()
    finally:
        for fellow in fellows:
            fellow.kill()
            fellow.wait()


def _numbered(shared: dict[str, object], rank: int) -> dict[str, object]:
    return {**shared, "RANK": rank, "LOCAL_RANK": rank}


def _end_with_the_first() -> None:
    """End this process when the one that started it does, however that ends."""
    while os.read(0, 1):  # sys.stdin has a lock, which would spoil an ordinary end
        pass
    os._exit(1)
