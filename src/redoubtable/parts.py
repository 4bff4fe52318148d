"""What a defense must say of itself: facts that attacks and checks adapt to.

A defended model is plain composition of modules. A module that changes how a network must be
attacked is a `Part`: it states its facts, with no defaults, and says what is left when it is taken
out. Everything else in the package asks `facts_of(model)` and never a defense's name.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import nn

from redoubtable.types import Images, Logits


@dataclass(frozen=True)
class Facts:
    """The facts of one part, or of a whole model. A defense states them; only `once` has a default.

    Attributes:
        stochastic: two passes over the same image may differ.
        differentiable: autograd gives the true derivative; if not, the part names a surrogate.
        batch_dependent: an image's output depends on the other images of its batch.
        abstains: the output has one column more than there are classes, the rejection.
        passes: network passes that one forward pass costs (10 for a vote of ten).
        once: passes on top of them that all draws of an image share (see `ManyDraws`).
    """

    stochastic: bool
    differentiable: bool
    batch_dependent: bool
    abstains: bool
    passes: int
    once: int = 0


PLAIN = Facts(
    stochastic=False, differentiable=True, batch_dependent=False, abstains=False, passes=1
)
"""What a module that is no `Part` is taken for, until a check measures otherwise."""


class Part(nn.Module, ABC):
    """A module that belongs to a defense.

    A subclass states `facts` (a property, or a class attribute where settings don't matter) and
    defines `undefended`.
    """

    @property
    @abstractmethod
    def facts(self) -> Facts:
        """What attacks and checks must know; a class without it can't be instantiated."""

    @abstractmethod
    def undefended(self) -> nn.Module:
        """Return what stays when this part is taken out: the wrapped model, or an identity."""

    def objectives(self) -> tuple[str, ...]:
        """Return attack arguments that its known break needs, as in `"loss=evasion_margin"`.

        The adaptive suite runs its attacks once with each of them; none means the usual losses do.
        """
        return ()


@runtime_checkable
class ManyDraws(Protocol):
    """A random model that gives many answers to an image for less than as many calls cost."""

    def answers(self, x: Images, draws: int) -> Logits:
        """Return (draws, N, K) answers, each as a call of the model would have given it."""


def parts_of(model: nn.Module) -> list[Part]:
    """Return every part in `model`, outermost first."""
    return [m for m in model.modules() if isinstance(m, Part)]


def facts_of(model: nn.Module) -> Facts:
    """Return the facts of a whole model, joined over its parts."""
    parts = [p.facts for p in parts_of(model)]
    passes = math.prod(p.passes for p in parts) + sum(p.once for p in parts)
    return Facts(
        stochastic=any(f.stochastic for f in parts),
        differentiable=all(f.differentiable for f in parts),
        batch_dependent=any(f.batch_dependent for f in parts),
        abstains=any(f.abstains for f in parts),
        passes=passes,
    )


def networks_of(model: nn.Module) -> list[nn.Module]:
    """Return the largest submodules with parameters that have no part of a defense in them."""
    found: dict[nn.Module, None] = {}

    def look(module: nn.Module) -> None:
        if not any(isinstance(m, Part) for m in module.modules()):
            if any(True for _ in module.parameters()):
                found[module] = None
        else:
            for child in module.children():
                look(child)

    look(model)
    return list(found)


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[nn.Module]:
    """Put a model into eval mode for a block, and every submodule back as it was after it."""
    modes = [(m, m.training) for m in model.modules()]
    try:
        yield model.eval()
    finally:
        for module, mode in modes:
            module.training = mode


def bare(model: nn.Module, takes: Callable[[Part], bool] = lambda part: True) -> nn.Module:
    """Return `model` with parts taken out: what a static attack sees.

    Parameters and buffers are shared with `model`, which itself is left as it is.

    Args:
        model: any composition.
        takes: which parts to take out; all by default.
    """
    if isinstance(model, Part) and takes(model):
        return bare(model.undefended(), takes)
    if not any(takes(part) for part in parts_of(model)):
        return model
    stripped = copy.copy(model)
    stripped._modules = {n: bare(m, takes) if m else m for n, m in model._modules.items()}
    if isinstance(stripped, nn.Sequential):
        rest = [m for m in stripped if not isinstance(m, nn.Identity)]
        if len(rest) == 1:
            return rest[0]
    return stripped
