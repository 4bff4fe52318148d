"""Following gradients with steps of an attack's own."""

from collections.abc import Callable

from torch import Tensor

from redoubtable.attacks.search import MOST_STEPS, Search
from redoubtable.gradients import input_gradient
from redoubtable.losses import Objective
from redoubtable.types import Images

Step = Callable[[Tensor, Images, Tensor], Images]
"""Of (M,) examples, where they stand and the gradients there: where they go, all of it legal."""


def walk(
    search: Search, start: Images, objective: Objective, step: Step, *, steps: int, eot: int
) -> None:
    """Go `steps` steps from `start` for the examples that are open, and offer every iterate.

    Args:
        search: where images are offered; it knows who is finished.
        start: (N, C, H, W) legal images.
        objective: what is raised.
        step: where an image goes next.
        steps: at least 1.
        eot: random draws that each gradient is averaged over.

    Raises:
        ValueError: `steps` is out of range.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise ValueError(f"`steps` must lie in 1 to {MOST_STEPS:,}, got {steps}")
    index = search.open
    here = start[index]
    for _ in range(steps):
        if len(index) == 0:
            return
        origin = index
        slope = input_gradient(
            search.model,
            here,
            lambda z, i, origin=origin: objective(z, origin[i]),  # type: ignore[misc]
            eot=eot,
            batch_size=search.batch_size,
        )
        still = search.offer(index, here, slope.logits)
        index = index[still]
        here = step(index, here[still], slope.gradient[still])
    if len(index):
        search.offer(index, here, search.look(here, eot))
