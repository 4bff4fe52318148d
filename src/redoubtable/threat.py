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
    def diameter(self, x: Tensor) -> float:
        """Return the largest distance between two images of the shape of `x`."""

    # -- shared --------------------------------------------------------------------------------

    @final
    def distance(self, x: Tensor, x_adv: Tensor) -> Tensor:
        """Return how far `x_adv` is from `x`, one number per image."""
        return self.norm(x_adv - x)

    @final
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


def _column(values: Tensor | float, like: Tensor) -> Tensor | float:
    """Per-image values, shaped to multiply (N, C, H, W)."""
    return values.to(like).view(-1, 1, 1, 1) if isinstance(values, Tensor) else values


def _free(gradient: Tensor, x_adv: Tensor) -> Tensor:
    """The gradient without the coordinates that stand at the box and point out of it."""
    stuck = ((x_adv <= 0) & (gradient < 0)) | ((x_adv >= 1) & (gradient > 0))
    return gradient.masked_fill(stuck, 0)


@final
@dataclass(frozen=True, eq=False)
class Linf(ThreatModel):
    """Every value may change by at most `eps`."""

    name = "Linf"

    def norm(self, delta: Tensor) -> Tensor:  # noqa: D102 - the base class says it
        return delta.flatten(1).abs().amax(1)

    def clip(self, delta: Tensor) -> Tensor:  # noqa: D102
        if isinstance(self.eps, Tensor):
            eps = self.radius(delta).view(-1, 1, 1, 1)
            return torch.maximum(torch.minimum(delta, eps), -eps)
        return delta.clamp(-self.eps, self.eps)

    def noise(self, x: Tensor) -> Tensor:  # noqa: D102
        limit = _column(self.radius(x).clamp_max(1), x)
        return (torch.rand_like(x) * 2 - 1) * limit

    def ascent(  # noqa: D102
        self, gradient: Tensor, x_adv: Tensor, x: Tensor, size: float | Tensor
    ) -> Tensor:
        return gradient.sign() * _column(size, gradient)

    def diameter(self, x: Tensor) -> float:  # noqa: D102
        return 1.0


@final
@dataclass(frozen=True, eq=False)
class L2(ThreatModel):
    """The Euclidean length of the change is at most `eps`."""

    name = "L2"

    def norm(self, delta: Tensor) -> Tensor:  # noqa: D102
        length: Tensor = torch.linalg.vector_norm(delta.flatten(1), dim=1)
        return length

    def clip(self, delta: Tensor) -> Tensor:  # noqa: D102
        shrink = self.radius(delta) / self.norm(delta).clamp_min(1e-12)
        return delta * _column(shrink.clamp_max(1), delta)

    def noise(self, x: Tensor) -> Tensor:  # noqa: D102
        direction = torch.randn_like(x)
        dimension = direction[0].numel()
        # A uniform point of a ball lies at the radius u^(1/d), u uniform.
        radius = torch.rand(len(x), dtype=x.dtype, device=x.device) ** (1 / dimension)
        radius = radius * self.radius(x).clamp_max(self.diameter(x))
        return direction * _column(radius / self.norm(direction), x)

    def ascent(  # noqa: D102
        self, gradient: Tensor, x_adv: Tensor, x: Tensor, size: float | Tensor
    ) -> Tensor:
        free = _free(gradient, x_adv)
        length = self.norm(free)
        unit = free / _column(torch.where(length > 0, length, 1.0), free)
        return unit * _column(size, gradient)

    def diameter(self, x: Tensor) -> float:  # noqa: D102
        return math.sqrt(x[0].numel())


@final
@dataclass(frozen=True, eq=False)
class L1(ThreatModel):
    """The absolute changes add up to at most `eps`."""

    name = "L1"

    def norm(self, delta: Tensor) -> Tensor:  # noqa: D102
        return delta.flatten(1).abs().sum(1)

    def clip(self, delta: Tensor) -> Tensor:
        """Return the nearest change inside the ball (Duchi et al. 2008, figure 1)."""
        eps = self.radius(delta)
        size = delta.flatten(1).abs()
        outside = size.sum(1) > eps
        if not bool(outside.any()):
            return delta
        ranked = size.sort(dim=1, descending=True).values
        # The threshold is the last one at which the running mean of the excess stays below.
        count = torch.arange(1, size.shape[1] + 1, dtype=size.dtype, device=size.device)
        excess = (ranked.cumsum(1) - eps[:, None].clamp_max(self.diameter(delta))) / count
        last = (ranked > excess).sum(1, keepdim=True).clamp_min(1) - 1
        threshold = excess.gather(1, last).clamp_min(0) * outside[:, None]
        shrunk = delta.flatten(1).sign() * (size - threshold).clamp_min(0)
        return shrunk.view_as(delta)

    def noise(self, x: Tensor) -> Tensor:  # noqa: D102
        # Exponential spacings are uniform on the simplex; one more makes them so in the ball.
        flat = x.flatten(1)
        weights = torch.empty_like(flat).exponential_()
        rest = torch.empty_like(flat[:, :1]).exponential_()
        weights = weights / (weights.sum(1, keepdim=True) + rest)
        signs = torch.rand_like(flat).sub(0.5).sign()
        eps = self.radius(x).clamp_max(self.diameter(x))
        return (weights * signs * eps[:, None]).view_as(x)

    def ascent(  # noqa: D102
        self, gradient: Tensor, x_adv: Tensor, x: Tensor, size: float | Tensor
    ) -> Tensor:
        room = torch.where(gradient > 0, 1 - x_adv, x_adv).flatten(1)
        order = _free(gradient, x_adv).flatten(1).abs().sort(dim=1, descending=True)
        budget = size.to(x) if isinstance(size, Tensor) else x.new_full((len(x),), size)
        room = room.gather(1, order.indices) * (order.values > 0)
        before = room.cumsum(1) - room
        spent = torch.minimum((budget[:, None] - before).clamp_min(0), room)
        step = torch.zeros_like(room).scatter_(1, order.indices, spent)
        return step.view_as(x) * gradient.sign()

    def diameter(self, x: Tensor) -> float:  # noqa: D102
        return float(x[0].numel())


@final
@dataclass(frozen=True, eq=False)
class L0(ThreatModel):
    """At most `eps` pixels change, each in all its channels and as much as it likes.

    Raises:
        ValueError: `eps` is no whole number.
    """

    name = "L0"
    least = 1 / 8

    def __post_init__(self) -> None:
        """Refuse half a pixel."""
        super().__post_init__()
        values = self.eps if isinstance(self.eps, Tensor) else torch.tensor(self.eps)
        if bool((values != values.floor()).any()):
            raise ValueError(f"`eps` of L0 counts pixels and must be whole, got {self.eps}")

    def norm(self, delta: Tensor) -> Tensor:  # noqa: D102
        return (delta != 0).any(1).flatten(1).sum(1).to(delta.dtype)

    def clip(self, delta: Tensor) -> Tensor:  # noqa: D102
        return delta * self._largest(delta.abs().sum(1).flatten(1), delta)

    def noise(self, x: Tensor) -> Tensor:  # noqa: D102
        chosen = self._largest(torch.rand_like(x[:, 0]).flatten(1) + 1e-3, x)
        return (torch.rand_like(x) - x) * chosen

    def ascent(self, gradient: Tensor, x_adv: Tensor, x: Tensor, size: float | Tensor) -> Tensor:
        """Return the step that sets the best `size` pixels, and frees others where need be.

        The gain of a pixel is the linear gain of its best corner of the colour cube; beyond `eps`
        pixels those whose change is worth least go back to `x` (specs of the L0 attack of
        Hosseini et al. 2019: one pixel a step, then swaps). `size` is rounded up to whole pixels.
        """
        corner = (gradient > 0).to(x)
        now = (gradient * (x_adv - x)).sum(1).flatten(1)
        best = (gradient * (corner - x)).sum(1).flatten(1)
        amount = size.to(x) if isinstance(size, Tensor) else x.new_full((len(x),), size)
        changed = (x_adv != x).any(1).flatten(1)
        # Once the budget is full, a new pixel takes the place of the one that is worth least.
        cheapest = now.masked_fill(~changed, math.inf).amin(1)
        full = changed.sum(1) >= self.radius(x)
        replaced = torch.where(full, cheapest, 0.0)[:, None]
        better = best - torch.where(changed, now, replaced)
        move = _top(better, amount.ceil()) & (better > 0)
        # Unchanged pixels are worth nothing and must not push out one with a small loss first.
        worth = torch.where(move, best, now).masked_fill(~(move | changed), -math.inf)
        keep = self._largest(worth, x)
        target = torch.where(move.view_as(keep[:, 0]).unsqueeze(1), corner, x_adv)
        return torch.where(keep > 0, target, x) - x_adv

    def diameter(self, x: Tensor) -> float:  # noqa: D102
        return float(x.shape[-2] * x.shape[-1])

    def _largest(self, score: Tensor, like: Tensor) -> Tensor:
        """(N, 1, H, W) mask of the `eps` pixels of largest (N, H * W) score."""
        mask = _top(score, self.radius(like))
        return mask.to(like).view(len(like), 1, *like.shape[2:])


def _top(score: Tensor, count: Tensor) -> Tensor:
    """(N, M) mask of the `count[n]` largest entries of each row; the first of equal ones win."""
    rank = torch.empty_like(score, dtype=torch.int64)
    order = score.argsort(dim=1, descending=True, stable=True)
    places = torch.arange(score.shape[1], device=score.device).expand_as(order)
    rank.scatter_(1, order, places)
    return rank < count[:, None]


THREATS: dict[str, type[ThreatModel]] = {t.name: t for t in (Linf, L2, L1, L0)}


def parse_threat(text: str) -> ThreatModel:
    """Read a threat as written on the command line: `Linf:8/255`, `L2:0.5`, `L0:30`, `L1:inf`.

    Raises:
        ValueError: the norm is unknown, or the radius is missing or no number.
    """
    name, colon, raw = text.strip().partition(":")
    known = {k.lower(): v for k, v in THREATS.items()}
    if name.lower() not in known:
        raise ValueError(f"unknown threat {name!r} in {text!r}; write one of Linf, L2, L1, L0:eps")
    eps = math.inf if raw.strip().lower() == "inf" else read_number(raw)
    if not colon or eps is None:
        raise ValueError(f"no radius in the threat {text!r}; write it as in {name}:8/255")
    return known[name.lower()](eps)
