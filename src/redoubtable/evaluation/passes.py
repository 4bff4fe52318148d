"""Forward and backward passes, the cost of an attack that compares across machines."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from redoubtable.parts import facts_of


@dataclass
class Passes:
    """How many images went through the network.

    Attributes:
        forward: images passed forward, each draw of a vote counted.
        backward: images whose gradient was taken, likewise.
    """

    forward: int = 0
    backward: int = 0


@contextmanager
def counted(*models: nn.Module) -> Iterator[Passes]:
    """Count the passes through models during a block; a model called through another counts once.

    The count is of network passes: a vote of ten costs ten per image.
    """
    passes = Passes()

    def count(module: nn.Module, arguments: tuple[Any, ...], out: Tensor) -> None:
        images = len(out) * facts_of(module).passes
        passes.forward += images

        def count_back(_: Tensor) -> None:
            passes.backward += images

        if out.requires_grad:
            out.register_hook(count_back)  # type: ignore[no-untyped-call]

    hooks = [m.register_forward_hook(count) for m in dict.fromkeys(models)]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()
