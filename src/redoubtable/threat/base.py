"""What the attacker may change: one frozen object with all the geometry of a norm ball.

Everything that depends on a norm stands here, so an attack never asks which norm it works under.
Images are (N, C, H, W) in [0, 1] and `eps` is in the same units; under `L0` it counts pixels, that
is, spatial positions with all their channels.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar, Self, final

import torch
from torch import Tensor

from redoubtable.files import digest_tensors
from redoubtable.registry import read_number

_SLACK = 1e-5
"""Rounding that `contains` forgives, relative to eps and absolute (float32 has 1.2e-7)."""


@dataclass(frozen=True, eq=False)
class ThreatModel(ABC):
    """A norm ball around each image, cut by the box [0, 1].

    Args:
        eps: the radius; a float, a (N,) tensor with one radius per image, or `inf` for attacks
            that look for the smallest change.

    Raises:
        TypeError: `eps` is no number and no floating-point tensor.
        ValueError: `eps` is negative or NaN, or is no (N,) tensor.
    """

    eps: float | Tensor
    name: ClassVar[str]
    least: ClassVar[float] = 0.0
    """The smallest default step, as a share of eps."""
    peaked: ClassVar[bool] = False
    """Whether the size is that of the largest value alone: its slope leaves all others as they are,
    so that it is lowered through a limit for every value."""
    whole: ClassVar[bool] = False
    """Whether the size is a count."""
    sparse: ClassVar[bool] = False
    """Whether the steepest direction changes few values, so that an attack must say how many."""

    def __post_init__(self) -> None:
        """Refuse radii that make no sense."""
        if isinstance(self.eps, Tensor):
            if self.eps.ndim != 1 or not self.eps.is_floating_point():
                shape = f"{self.eps.dtype} of shape {tuple(self.eps.shape)}"
                raise ValueError(f"`eps` as a tensor must be floating point, (N,), got {shape}")
            bad = bool((~(self.eps >= 0)).any())
        elif isinstance(self.eps, bool) or not isinstance(self.eps, int | float):
            raise TypeError(f"`eps` must be a number or a tensor, got {type(self.eps).__name__}")
        else:
            object.__setattr__(self, "eps", float(self.eps))
            bad = not self.eps >= 0
        if bad:
            raise ValueError(f"`eps` must be at least 0, got {self.eps}")

    # -- per norm ------------------------------------------------------------------------------

    @abstractmethod
    def norm(self, delta: Tensor) -> Tensor:
        """Return the size of each change: (N, C, H, W) to (N,)."""

    @abstractmethod
    def clip(self, delta: Tensor) -> Tensor:
        """Return the nearest change inside the ball (for L0: the largest `eps` pixels)."""

    @abstractmethod
    def noise(self, x: Tensor) -> Tensor:
        """Return random changes, uniform in the ball (for L0: at `eps` random pixels)."""

    @abstractmethod
    def ascent(self, gradient: Tensor, x_adv: Tensor, x: Tensor, size: float | Tensor) -> Tensor:
        """Return the step from `x_adv` of at most `size` that raises <gradient, step> the most.

        Linf and L2 take the steepest direction of the norm; L1 and L0 fill the best coordinates or
        pixels up to the box, since one coordinate alone could not take the whole step.
        """

    @abstractmethod
    def dual(self, gradient: Tensor) -> Tensor:
        """Return the most that a change of size 1 gains on <gradient, change>; (N,).

        That is the dual norm; for L0 the gain of one pixel whose values may all move by 1.
        """

    @abstractmethod
    def fill(self, weight: Tensor, room: Tensor, need: Tensor) -> Tensor:
        """Return the smallest change with <weight, change> = need and 0 <= change <= room.

        Args:
            weight: (N, C, H, W), none negative.
            room: (N, C, H, W), none negative, and 0 where the weight is.
            need: (N,), none negative; where all the room is too little, all of it is taken.
        """

    @abstractmethod
    def diameter(self, x: Tensor) -> float:
        """Return the largest distance between two images of the shape of `x`."""

    def cost(self, delta: Tensor, limit: Tensor) -> tuple[Tensor, Tensor]:
        """Return (N,) what changes cost where small ones are sought, and its gradient.

        The squared length; for a peaked norm what exceeds an (N,) limit, summed over the values
        (Carlini & Wagner 2017, arXiv:1608.04644, VI.A and VI.C).
        """
        return delta.flatten(1).square().sum(1), 2 * delta

    # -- shared --------------------------------------------------------------------------------

    @final
    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Return how far `x_adv` is from `x`, one number per image."""
        return self.norm(x_adv - x)

    @final
    def reach(self, gradient: Tensor, gap: Tensor, x_adv: Tensor) -> Tensor:
        """Return the smallest step from `x_adv` inside the box that changes a linear function so.

        Args:
            gradient: (N, C, H, W) of the function.
            gap: (N,) by how much it shall rise, or fall where it is negative. Where the box does
                not allow that, the step goes to the corner of the box that comes closest.
            x_adv: (N, C, H, W) images in the box.
        """
        uphill = gradient * column(gap.sign(), gradient)
        # By arithmetic: `where` takes a processor several times as long.
        room = ((uphill > 0).to(x_adv) - x_adv).abs() * (uphill != 0)
        return self.fill(uphill.abs(), room, gap.abs()) * uphill.sign()

    def project(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return a legal image near `x_adv`: clipped to the ball, then to the box.

        The second clip keeps the first one's promise, because `x` itself lies in the box.
        """
        return (x + self.clip(x_adv - x)).clamp(0, 1)

    @final
    def sample(self, x: Tensor) -> Tensor:
        """Return a random legal image for each image of `x`."""
        return self.project(x + self.noise(x), x)

    @final
    def contains(self, x_adv: Tensor, x: Tensor) -> Tensor:
        """Return which images are legal: finite, in the box and in the ball; (N,) bool.

        Rounding of 1e-5, relative and absolute, is forgiven in the ball, none in the box.
        """
        flat = x_adv.flatten(1)
        boxed = torch.isfinite(flat).all(1) & (flat >= 0).all(1) & (flat <= 1).all(1)
        return boxed & (self.distance(x, x_adv) <= self.radius(x) * (1 + _SLACK) + _SLACK)

    @final
    def radius(self, x: Tensor) -> Tensor:
        """Return eps as a (N,) tensor for the images `x`."""
        if isinstance(self.eps, Tensor):
            if len(self.eps) != len(x):
                raise ValueError(f"`eps` has {len(self.eps)} radii for {len(x)} images")
            return self.eps.to(x)
        return x.new_full((len(x),), self.eps)

    @final
    def default_step(self, steps: int) -> float | Tensor:
        """Return the step size 2.5 eps / steps (Madry et al. 2018, section 5).

        Under L0 a step is never under an eighth of the pixels: one pixel at a time ends in the
        first set that no single exchange improves, and more steps then change nothing.

        Raises:
            ValueError: eps is infinite, so no step size follows from it.
        """
        largest = self.eps.max().item() if isinstance(self.eps, Tensor) else self.eps
        if math.isinf(largest):
            raise ValueError("with `eps` inf no step size follows; give `step_size`")
        step: float | Tensor = max(2.5 / steps, self.least) * self.eps
        return step

    @final
    def select(self, index: Tensor) -> Self:
        """Return the threat for some of the images: per-image radii are indexed, a float stays."""
        if not isinstance(self.eps, Tensor):
            return self
        return replace(self, eps=self.eps[index.to(self.eps.device)])

    @final
    def scaled(self, factor: float) -> Self:
        """Return the threat with its radius multiplied."""
        return replace(self, eps=self.eps * factor)

    @final
    def unbounded(self, x: Tensor) -> Self:
        """Return the threat under which any image of the box may be shown."""
        return replace(self, eps=self.diameter(x))

    @property
    def key(self) -> str:
        """A name that tells any two different threats apart, for seeds and journals."""
        if isinstance(self.eps, Tensor):
            return f"{self.name}:{digest_tensors(self.eps)}"
        return f"{self.name}:{self.eps!r}"

    def __str__(self) -> str:
        """Write it as `parse_threat` reads it, 8-bit steps as n/255 where that is shorter."""
        if isinstance(self.eps, Tensor):
            return f"{self.name}:per-image"
        rounded, steps = f"{self.eps:.6g}", f"{round(self.eps * 255, 6):g}/255"
        plain = rounded if float(rounded) == self.eps else f"{self.eps!r}"
        short = len(steps) < len(plain) and read_number(steps) == self.eps
        return f"{self.name}:{steps if short else plain}"


def column(values: Tensor | float, like: Tensor) -> Tensor | float:
    """Per-image values, shaped to multiply (N, C, H, W)."""
    return values.to(like).view(-1, 1, 1, 1) if isinstance(values, Tensor) else values


def movable(gradient: Tensor, x_adv: Tensor) -> Tensor:
    """The gradient without the coordinates that stand at the box and point out of it."""
    stuck = ((x_adv <= 0) & (gradient < 0)) | ((x_adv >= 1) & (gradient > 0))
    return gradient.masked_fill(stuck, 0)


def water_level(weight: Tensor, limit: Tensor, need: Tensor) -> Tensor:
    """Return the level with sum_i weight_i min(level, limit_i) = need; (N, 1), else inf.

    Args:
        weight: (N, M), none negative.
        limit: (N, M), none negative.
        need: (N,), none negative.
    """
    if limit.device.type == "cpu":
        return _rising_level(weight, limit, need[:, None])
    return _sorted_level(weight, limit, need[:, None])


def _rising_level(weight: Tensor, limit: Tensor, need: Tensor) -> Tensor:
    """By Newton's method from below, which ends: each step but the last reaches another limit.

    Sorting takes a processor longer than a network's pass; it takes a handful of these steps.
    """
    tiny = torch.finfo(weight.dtype).tiny
    level = need / weight.sum(1, keepdim=True).clamp_min(tiny)
    whole = torch.nan_to_num(weight * limit)  # a limit may be infinite, and is then never reached
    while True:
        full = (whole * (limit <= level)).sum(1, keepdim=True)
        rest = (weight * (limit > level)).sum(1, keepdim=True)
        next_ = ((need - full) / rest).masked_fill(rest == 0, torch.inf)
        # No weight and no need: the level is 0, whatever is open.
        rises = (next_ > level) & (need > 0)
        if not bool(rises.any()):
            return level
        level = torch.where(rises, next_, level)


def _sorted_level(weight: Tensor, limit: Tensor, need: Tensor) -> Tensor:
    """By sorting the limits, without a look at a value: for accelerators."""
    order = limit.sort(dim=1)
    weight, limit = weight.gather(1, order.indices), order.values
    full = (weight * limit).cumsum(1)  # what those up to here give once they are at their limits
    rest = weight.flip(1).cumsum(1).flip(1)  # the weight of this one and those after it
    reached = full + limit * (rest - weight)
    first = (reached < need).sum(1, keepdim=True)
    at = first.clamp_max(weight.shape[1] - 1)
    before = (full - weight * limit).gather(1, at)
    tiny = torch.finfo(weight.dtype).tiny
    level = (need - before).clamp_min(0) / rest.gather(1, at).clamp_min(tiny)
    return level.masked_fill(first > at, torch.inf)
