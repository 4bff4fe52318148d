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
    """The facts of one part, or of a whole model. A defense states all but the last two.

    Attributes:
        stochastic: two passes over the same image may differ.
        differentiable: autograd gives the true derivative; if not, the part names a surrogate.
        batch_dependent: an image's output depends on the other images of its batch.
        abstains: the output has one column more than there are classes, the rejection.
        passes: network passes that one forward pass costs (10 for a vote of ten).
        once: passes on top of them that all draws of an image share (see `ManyDraws`).
        adjustable: its randomness has a size, which an attack may turn down (see `less_random`).
    """

    stochastic: bool
    differentiable: bool
    batch_dependent: bool
    abstains: bool
    passes: int
    once: int = 0
    adjustable: bool = False


PLAIN = Facts(
    stochastic=False, differentiable=True, batch_dependent=False, abstains=False, passes=1
)
"""What a module that is no `Part` is taken for, until a check measures otherwise."""


class Part(nn.Module, ABC):
    """A module that belongs to a defense.

    A subclass states `facts` (a property, or a class attribute where settings don't matter) and
    defines `undefended`.

    Attributes:
        randomness: share of its randomness that is on; what states `adjustable` heeds it.
    """

    randomness: float = 1.0

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
        adjustable=any(f.adjustable for f in parts),
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
def less_random(model: nn.Module, share: float) -> Iterator[nn.Module]:
    """Turn a model's randomness down for a block: a lower drop rate, less noise.

    For gradients only: they are less noisy, and those of another function, which the true model
    must judge. A model without randomness stays as it is.

    Args:
        model: any composition.
        share: of the randomness that is left, in (0, 1].

    Raises:
        ValueError: the share is out of range, or the model is random in no way that has a size.
    """
    if not 0 < share <= 1:
        raise ValueError(f"`randomness` must lie in (0, 1], got {share}")
    parts, facts = parts_of(model), facts_of(model)
    if share < 1 and facts.stochastic and not facts.adjustable:
        names = ", ".join(type(p).__name__ for p in parts if p.facts.stochastic)
        raise ValueError(
            f"`randomness` has nothing to turn down: that of {names} has no size; leave it at 1"
        )
    parts = [part for part in parts if part.facts.adjustable]
    before = [part.randomness for part in parts]
    try:
        for part, its in zip(parts, before, strict=True):
            part.randomness = its * share
        yield model
    finally:
        for part, its in zip(parts, before, strict=True):
            del part.randomness  # the class's again: a model is known by its own attributes
            if its != part.randomness:
                part.randomness = its


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
