"""How APGD moves, and what it changes at its checkpoints: one rule for dense steps, one for sparse.

Both keep a track of the examples that are still open and are the only ones that change it.
"""

from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import torch
from torch import Tensor

from redoubtable.gradients import Slope
from redoubtable.threat import ThreatModel
from redoubtable.types import Images

_RHO = 0.75
"""The share of steps between two checkpoints that must raise the loss (2020a, section 3.1)."""
_FIRST, _SHORTER, _LEAST = 0.22, 0.03, 0.06
"""The first span between checkpoints, how much shorter each next one is, and the shortest."""
_SPAN, _FEWER, _SLOWER, _SLOWEST, _STEADY = 0.04, 1.5, 1.5, 10, 0.95
"""Of the sparse rule (2021, section 4): the span; what the number of values that move and the step
size are divided by; how small the step may get; and from which ratio on the number of changed
values counts as steady."""


@dataclass
class Track:
    """Where each of M open examples stands, and the best of its way, by the loss that is raised.

    Attributes:
        here: (M, C, H, W) the iterate.
        before: the one before it.
        gradient: of the loss at `here`.
        loss: (M,) at `here`.
        peak: where the loss was largest, with `peak_gradient` and `peak_loss`.
        size: (M,) step size in the units of eps.
    """

    here: Images
    before: Images
    gradient: Tensor
    loss: Tensor
    peak: Images
    peak_gradient: Tensor
    peak_loss: Tensor
    size: Tensor

    def only(self, kept: Tensor) -> Self:
        """Return the track of some of the examples; (M,) bool."""
        return replace(self, **{f.name: getattr(self, f.name)[kept] for f in fields(self)})

    def see(self, slope: Slope) -> None:
        """Take in the loss and the gradient at the iterate."""
        self.loss, self.gradient = slope.loss, slope.gradient
        better = slope.loss > self.peak_loss
        self.peak_loss = torch.where(better, slope.loss, self.peak_loss)
        self.peak = _where(better, self.here, self.peak)
        self.peak_gradient = _where(better, slope.gradient, self.peak_gradient)

    def return_to_peak(self, which: Tensor) -> None:
        """Let some of the examples go on from their best iterate."""
        self.here = _where(which, self.peak, self.here)
        self.gradient = _where(which, self.peak_gradient, self.gradient)


def _where(which: Tensor, first: Tensor, second: Tensor) -> Tensor:
    return torch.where(which.view(-1, 1, 1, 1), first, second)


@dataclass
class Halving(Track):
    """Steps with momentum, halved where they no longer pay (2020a, algorithm 1).

    Attributes:
        reach: the first step size, in radii.
        radii: balls that are climbed in one after the other, in radii, and their shares of the
            steps.
        rises: (M,) steps since the last checkpoint that raised the loss.
        record: (M,) the largest loss at the last checkpoint.
        halved: (M,) whether the step was halved there.
    """

    rises: Tensor
    record: Tensor
    halved: Tensor
    reach: ClassVar[float] = 2.0
    radii: ClassVar[tuple[tuple[float, float], ...]] = ((1.0, 1.0),)

    @classmethod
    def begin(cls, start: Images, clean: Images, radius: Tensor) -> Self:
        """Return the track of examples that have seen nothing yet."""
        low, none = torch.full_like(radius, -torch.inf), torch.zeros_like(radius)
        zero, size = torch.zeros_like(start), cls.reach * radius
        return cls(start, start, zero, -low, start, zero, low, size, none, low, none.bool())

    def see(self, slope: Slope) -> None:  # noqa: D102
        self.rises = self.rises + (slope.loss > self.loss)
        super().see(slope)

    @staticmethod
    def checkpoints(steps: int) -> dict[int, int]:
        """Return after which steps to check, and how many steps the span before each had."""
        span, at, found = max(int(_FIRST * steps), 1), 0, {}
        while at + span <= steps:
            at += span
            found[at] = span
            span = max(span - max(int(_SHORTER * steps), 1), max(int(_LEAST * steps), 1))
        return found

    def check(self, clean: Images, threat: ThreatModel, span: int) -> None:
        """Halve the step where too few steps rose, or where a step kept before brought nothing."""
        idle = ~self.halved & (self.record >= self.peak_loss)
        self.halved = (self.rises <= _RHO * span) | idle
        self.size = torch.where(self.halved, self.size / 2, self.size)
        self.record, self.rises = self.peak_loss, torch.zeros_like(self.rises)
        self.return_to_peak(self.halved)

    def move(self, clean: Images, threat: ThreatModel, alpha: float) -> None:
        """Take a projected step of steepest ascent, and of it and the last step the mean."""
        ascent = threat.ascent(self.gradient, self.here, clean, self.size)
        ahead = threat.project(self.here + ascent, clean)
        drift = alpha * (ahead - self.here) + (1 - alpha) * (self.here - self.before)
        self.before, self.here = self.here, threat.project(self.here + drift, clean)


@dataclass
class Sparsity(Track):
    """Sign steps on few values, fewer as the change gets sparser (2021, section 4, algorithm 1).

    Attributes:
        reach: the longest step, in radii.
        radii: as in `Halving`; larger balls first (2021, section 4.2).
        count: (M,) values that move at a step.
        spread: (M,) values that the best iterate of the last checkpoint changed.
    """

    count: Tensor
    spread: Tensor
    reach: ClassVar[float] = 1.0
    radii: ClassVar[tuple[tuple[float, float], ...]] = ((3.0, 0.3), (2.0, 0.3), (1.0, 0.4))

    @classmethod
    def begin(cls, start: Images, clean: Images, radius: Tensor) -> Self:
        """Return the track of examples that have seen nothing yet."""
        low, zero = torch.full_like(radius, -torch.inf), torch.zeros_like(start)
        spread, size = cls._spread(start, clean), cls.reach * radius
        return cls(start, start, zero, -low, start, zero, low, size, spread / _FEWER, spread)

    @staticmethod
    def _spread(images: Images, clean: Images) -> Tensor:
        return (images != clean).flatten(1).sum(1).to(images)

    @staticmethod
    def checkpoints(steps: int) -> dict[int, int]:
        """Return after which steps to check, and how many steps the span before each had."""
        span = max(int(_SPAN * steps), 1)
        return dict.fromkeys(range(span, steps + 1, span), span)

    def check(self, clean: Images, threat: ThreatModel, span: int) -> None:
        """Start again from the best where it got sparser; take shorter steps elsewhere."""
        spread = self._spread(self.peak, clean)
        sparser = spread < _STEADY * self.spread
        longest = self.reach * threat.radius(clean)
        shorter = torch.maximum(self.size / _SLOWER, longest / _SLOWEST)
        self.size = torch.where(sparser, longest, shorter)
        self.count, self.spread = spread / _FEWER, spread
        self.return_to_peak(sparser)

    def move(self, clean: Images, threat: ThreatModel, alpha: float) -> None:
        """Move the values of largest slope alike; `alpha` is not used, there is no momentum."""
        slope = self.gradient.abs().flatten(1)
        rank = self.count.long().clamp(1, slope.shape[1]) - 1
        least = slope.sort(dim=1, descending=True).values.gather(1, rank[:, None])
        signs = self.gradient.sign() * (slope >= least).view_as(self.gradient)
        length = self.size / threat.norm(signs).clamp_min(1)
        there = threat.project(self.here + signs * length.view(-1, 1, 1, 1), clean)
        self.before, self.here = self.here, there
