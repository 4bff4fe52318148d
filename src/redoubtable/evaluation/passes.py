"""Forward and backward passes, the cost of an attack that compares across machines."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from redoubtable.parts import facts_of, networks_of


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
    """Count the passes through the networks inside models during a block.

    A vote of ten costs ten per image. A network that stands in several of the models counts once.
    """
    passes = Passes()

    def count(module: nn.Module, arguments: tuple[Any, ...], out: Tensor) -> None:
        images = len(out) * (1 if module in networks else facts_of(module).passes)
        passes.forward += images

        def count_back(_: Tensor) -> None:
            passes.backward += images

        if out.requires_grad:
            out.register_hook(count_back)  # type: ignore[no-untyped-call]

    networks = {network for model in models for network in networks_of(model)}
    # A model without parameters has no network inside; it is one.
    alone = {model for model in models if not networks_of(model)}
    hooks = [m.register_forward_hook(count) for m in networks | alone]
    try:
        yield passes
    finally:
        for hook in hooks:
            hook.remove()
