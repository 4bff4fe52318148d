"""Paired timing: every round runs each contender once, so that a drift of the machine hits all."""

import statistics
import time
from collections.abc import Callable
from typing import Any

from redoubtable.seeding import seeded


def rounds(contenders: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each contender in each round, after one round that is not counted.

    Every other round runs them in the opposite order, so that none always follows the same one.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for number in range(repeats + 1):
        order = list(contenders.items())
        for name, run in order if number % 2 else reversed(order):
            with seeded("round", number):
                started = time.perf_counter()
                run()
                if number:
                    seconds[name].append(time.perf_counter() - started)
    return seconds


def compare(seconds: dict[str, list[float]], images: int, against: str) -> dict[str, Any]:
    """Images per second and how many times as fast as one of the contenders."""
    return {
        name: {
            "images_per_second": images / statistics.median(times),
            f"times_{against}": statistics.median(
                b / t for b, t in zip(seconds[against], times, strict=True)
            ),
            "seconds": times,
        }
        for name, times in seconds.items()
    }
