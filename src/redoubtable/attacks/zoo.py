"""Zeroth order optimisation, coordinate by coordinate."""

import torch
from torch import Tensor, nn

from redoubtable.attacks.nearest import Nearest
from redoubtable.attacks.registry import ATTACKS
from redoubtable.losses import aim, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L2, ThreatModel
from redoubtable.types import Images, Labels, Logits, Loss

_INSIDE = 0.999999
_PATIENCE = 10
"""Least number of steps between two looks at who stalls."""
_WIDTH = 1e-4
"""Half the width of a difference, in units of the variable (the authors' h)."""


@ATTACKS.register("zoo", threats=(L2,), access="score", minimal=True, differences=True)
def zoo(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    steps: int = 1000,
    step_size: float = 0.01,
    draws: int = 128,
    search_steps: int | None = None,
    const: float | None = None,
    confidence: float = 0.0,
    tanh: bool = False,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
) -> Images:
    """ZOO-Adam (Chen et al. 2017, arXiv:1708.03999, algorithms 1 and 2), no gradient needed.

    Minimises |delta|^2 + const * max(confidence - margin, 0), the margin of log-probabilities. Each
    step takes `draws` random coordinates of each image, estimates the slope of each by a symmetric
    difference, and moves them by an Adam with a clock per coordinate. The slope of |delta|^2 is
    known and not estimated. The authors' shrunken attack space and importance sampling, which they
    use on large images, are left out.

    An image whose objective has not fallen for a tenth of the steps after a success leaves until
    the next round, as in the authors' code; on a random model none does.

    Args:
        model: classifier; `steps * (2 * draws + 1)` images are asked about per example and round.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: L2; with a finite radius the nearest success is projected into it.
        targets: (N,) classes to be taken for; None to leave the true class.
        steps: steps per round (the authors: 1,000 for CIFAR-10, 3,000 for MNIST).
        step_size: Adam's, in units of the variable (the authors' 0.01).
        draws: coordinates per step (the authors' 128).
        search_steps: rounds of bisection for const; None for 9, or 1 where const is given.
        const: the weight of the margin; None for a search from 0.01. Given with `search_steps`, it
            is what the search starts from; given alone, it is fixed (the authors' 0.5).
        confidence: the margin that an image must exceed to count as a success.
        tanh: search tanh variables, as the authors do on CIFAR-10, instead of the pixels
            themselves, clipped, as they do on MNIST. Black and white pixels lie so far out on a
            tanh that they hardly move.
        success: a margin, positive once the attack succeeded; the one that is raised.
        eot: random draws of the model that an answer is averaged over.
        batch_size: images in one pass.

    Returns:
        (N, C, H, W) legal images: the nearest success, else the image of largest margin, projected.
    """
    rounds = search_steps if search_steps is not None else 9 if const is None else 1
    if min(steps, rounds, draws) < 1 or confidence < 0:
        raise ValueError(
            "`steps`, `search_steps` and `draws` must be at least 1 and `confidence` at least 0, "
            f"got {steps}, {rounds}, {draws} and {confidence}"
        )
    if not step_size > 0 or (const is not None and not const > 0):
        raise ValueError(f"`step_size` and `const` must be positive, got {step_size} and {const}")
    near = Nearest(model, x, y, targets, success, threat, eot, batch_size, confidence)
    descent = _Descent(near, success, y, targets, steps, step_size, draws, confidence, tanh)
    weight = near.x.new_full((len(x),), 0.01 if const is None else const)
    low, high = torch.zeros_like(weight), torch.full_like(weight, torch.inf)
    for _ in range(rounds):
        reached = descent.run(weight)
        low = torch.where(reached, low, torch.maximum(low, weight))
        high = torch.where(reached, torch.minimum(high, weight), high)
        weight = torch.where(high.isfinite(), (low + high) / 2, 10 * weight)
    return near.result(descent.strongest)


class _Descent:
    """Rounds of coordinate-wise Adam, and the image of largest margin on the way."""

    def __init__(
        self,
        near: Nearest,
        success: Loss,
        y: Labels,
        targets: Labels | None,
        steps: int,
        step_size: float,
        draws: int,
        confidence: float,
        tanh: bool,
    ) -> None:
        facts = facts_of(near.model)
        self.near, self.steps, self.step_size, self.confidence = near, steps, step_size, confidence
        self.tanh = tanh
        self.draws = min(draws, near.x[0].numel()) if len(near.x) else draws
        self.leaves = not (facts.stochastic or facts.batch_dependent)
        self.strongest = near.x.clone()
        self.peak = near.x.new_full((len(near.x),), -torch.inf)
        self._margin = aim(success, y, targets)

    def run(self, const: Tensor) -> Tensor:
        """Take the steps of one round from the clean images; return (N,) which succeeded."""
        near, w = self.near, self.near.x.flatten(1).clone()
        if self.tanh:
            w = (_INSIDE * (2 * w - 1)).atanh()
        mean, square, clock = torch.zeros_like(w), torch.zeros_like(w), torch.zeros_like(w)
        reached = torch.zeros_like(self.peak, dtype=torch.bool)
        before = torch.full_like(self.peak, torch.inf)
        index = torch.arange(len(w), device=w.device)
        for step in range(self.steps + 1):  # the last image is only looked at
            image = self._grey(w[index]).view(-1, *near.x.shape[1:])
            won, value = self._offer(index, image)
            reached[index] |= won
            if self.leaves:
                stay = near.distance[index] > 0
                if step and step % max(_PATIENCE, self.steps // 10) == 0:
                    total = (image - near.x[index]).flatten(1).square().sum(1)
                    total = total + const[index] * (self.confidence - value)
                    stay &= (total <= 0.9999 * before[index]) | ~reached[index]
                    before[index] = total
                index = index[stay]
            if step == self.steps or len(index) == 0:
                break
            at = torch.rand_like(w)[index].topk(self.draws, dim=1).indices
            slope = self._slope(w[index], at, index, const)
            rows = index[:, None]
            clock[rows, at] += 1
            mean[rows, at] = 0.9 * mean[rows, at] + 0.1 * slope
            square[rows, at] = 0.999 * square[rows, at] + 0.001 * slope**2
            ahead = mean[rows, at] / (1 - 0.9 ** clock[rows, at])
            root = (square[rows, at] / (1 - 0.999 ** clock[rows, at])).sqrt() + 1e-8
            moved = w[rows, at] - self.step_size * ahead / root
            w[rows, at] = moved if self.tanh else moved.clamp(0, 1)
        return reached

    def _slope(self, w: Tensor, at: Tensor, index: Tensor, const: Tensor) -> Tensor:
        """(M, draws) estimated slopes of the objective along the coordinates `at`."""
        near, base, there = self.near, self._grey(w), w.gather(1, at)
        delta = self._grey(there) - near.x[index].flatten(1).gather(1, at)
        known = delta * (1 - there.tanh() ** 2) if self.tanh else 2 * delta
        share = max(1, (near.batch_size or 512) // (2 * len(w)))
        gains = []
        for some in torch.split(at, share, dim=1):
            here = w.gather(1, some)
            values = self._grey(torch.stack([here + _WIDTH, here - _WIDTH]))
            around = base.expand(2, some.shape[1], *base.shape).transpose(1, 2).clone()
            around.scatter_(3, some.expand(2, *some.shape)[..., None], values[..., None])
            looks = near.look(around.view(-1, *near.x.shape[1:]))
            owner = index[:, None].expand_as(some).flatten().repeat(2)
            above, below = self._value(looks, owner).view(2, len(w), -1)
            gains.append((above - below) / (2 * _WIDTH))
        return known - const[index, None] * torch.cat(gains, 1)

    def _grey(self, w: Tensor) -> Tensor:
        """The pixels of some variables."""
        return (w.tanh() + 1) / 2 if self.tanh else w

    def _value(self, logits: Logits, index: Tensor) -> Tensor:
        """The margin, up to the confidence; of log-probabilities it is the same as of logits."""
        value = self._margin(logits, index)
        return value.clamp_max(self.confidence).to(self.peak)

    def _offer(self, index: Tensor, images: Images) -> tuple[Tensor, Tensor]:
        """Take images into account; return (M,) which of them succeed, and their values."""
        logits = self.near.look(images)
        won = self.near.offer(index, images, logits)
        value = self._margin(logits, index).to(self.peak)
        stronger = (value > self.peak[index]).view(-1, 1, 1, 1)
        self.strongest[index] = torch.where(stronger, images, self.strongest[index])
        self.peak[index] = torch.maximum(value, self.peak[index])
        return won, self._value(logits, index)
