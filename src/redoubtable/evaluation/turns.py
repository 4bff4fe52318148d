"""Work that several processes take in turns: none waits while there is something else to do."""

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from redoubtable.files import claimed

T = TypeVar("T")
_FIRST_WAIT, _LONGEST_WAIT = 0.02, 0.5  # seconds between two looks at what others do


class TakenError(Exception):
    """Files that other processes are making stand between a job and its result.

    Attributes:
        paths: the files.
    """

    def __init__(self, paths: Iterable[Path]) -> None:
        self.paths = tuple(paths)
        super().__init__(f"{len(self.paths)} pieces of work are in other processes' hands")


def all_of(jobs: Iterable[Callable[[], T]]) -> list[T]:
    """Return the results of jobs; those in other hands don't keep this process from the rest.

    Raises:
        TakenError: all were tried, and some wait for what other processes are making.
    """
    done: list[T] = []
    paths: list[Path] = []
    for job in jobs:
        try:
            done.append(job())
        except TakenError as taken:
            paths += taken.paths
    if paths:
        raise TakenError(paths)
    return done


def finish(jobs: Sequence[Callable[[], T]], look: Callable[[], None] = lambda: None) -> list[T]:
    """Return the results of jobs, each tried again when what it waits for is there.

    A job that is tried again must find what it has finished before, as the journal keeps it. It is
    tried when nobody makes any more what it waited for, so that whatever one kill or error leaves
    undone is taken over.

    Args:
        jobs: may raise `TakenError`.
        look: called before every try and while waiting; may raise to end it.
    """
    done: dict[int, T] = {}
    missing: dict[int, Sequence[Path]] = dict.fromkeys(range(len(jobs)), ())
    pause = _FIRST_WAIT
    while missing:
        ready = [number for number, paths in missing.items() if not any(map(_is_being_made, paths))]
        for number in ready:
            look()
            try:
                done[number] = jobs[number]()
                del missing[number]
            except TakenError as taken:
                missing[number] = taken.paths
        if ready:
            pause = _FIRST_WAIT
        else:
            look()
            time.sleep(pause)
            pause = min(2 * pause, _LONGEST_WAIT)
    return [done[number] for number in range(len(jobs))]


def _is_being_made(path: Path) -> bool:
    """Whether another process has it in hand; one that was killed has not."""
    if path.exists():
        return False
    with claimed(path) as free:
        return not free
