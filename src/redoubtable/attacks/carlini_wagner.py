"""The attack of Carlini and Wagner, under L2 and under Linf."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redoubtable.attacks.nearest import Nearest
from redoubtable.attacks.registry import ATTACKS
from redoubtable.gradients import input_gradient
from redoubtable.losses import Objective, aim, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L2, Linf, ThreatModel
from redoubtable.threat.base import column
from redoubtable.types import Images, Labels, Logits, Loss

_INSIDE = 0.999999
"""How much an image is pulled to grey, so that no value of 0 or 1 is infinitely far away."""
_PATIENCE = 25
"""Least number of steps between two looks at who stalls: Adam overshoots, and comes back."""
_LARGEST_CONST = 20.0
_SMALLEST_LIMIT = 1 / 256
_LIMIT_FACTOR = 0.9


@ATTACKS.register("carlini_wagner", threats=(L2, Linf), access="gradient", minimal=True)
def carlini_wagner(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    steps: int = 1000,
    step_size: float = 0.01,
    search_steps: int | None = None,
    const: float | None = None,
    confidence: float = 0.0,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
) -> Images:
    """Smallest change by Adam on tanh variables (Carlini & Wagner 2017, arXiv:1608.04644, VI).

    Minimises size + const * max(confidence - margin, 0) over w, x_adv = (tanh(w) + 1) / 2. Under L2
    (section VI.A) size is the squared length, and const is sought per image by bisection. Under
    Linf (VI.C) it is what exceeds a limit, summed; the limit starts at the radius (at 1 without
    one) and is lowered by a tenth after a success, const doubles after a failure, up to 20.

    An image whose objective has not fallen for a tenth of the steps (without a success under L2:
    for half of them) leaves until the next round; in the authors' code the whole batch does, and
    under L2 alone. On a random model nothing leaves early.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: L2 or Linf; with a finite radius the nearest success is projected into it.
        targets: (N,) classes to be taken for; None to leave the true class.
        steps: Adam steps per round (the paper's code: 1,000 and, in later versions, 10,000).
        step_size: Adam's, in the units of w (the authors' 0.01).
        search_steps: rounds. None for 9 under L2, or 1 where const is given; under Linf for as many
            as it takes.
        const: the weight of the margin. None for a search from 1e-3 (L2) or 1e-5 (Linf). Given with
            `search_steps`, it is what the search starts from; given alone, it is fixed.
        confidence: the margin, kappa, that an image must exceed to count as a success.
        success: a margin, positive once the attack succeeded; the one that is raised.
        eot: random draws that each gradient is averaged over.
        batch_size: images in one pass.

    Returns:
        (N, C, H, W) legal images: the nearest success, else the image of largest margin, projected.
    """
    rounds = search_steps if search_steps is not None else 9 if const is None else 1
    if steps < 1 or rounds < 1:
        raise ValueError(f"`steps` and `search_steps` must be at least 1, got {steps}, {rounds}")
    if not step_size > 0 or confidence < 0 or (const is not None and not const > 0):
        raise ValueError(
            "`step_size` and `const` must be positive and `confidence` at least 0, got "
            f"{step_size}, {const} and {confidence}"
        )
    near = Nearest(model, x, y, targets, success, threat, eot, batch_size, confidence)
    descent = _Descent(near, aim(success, y, targets), steps, step_size, confidence)
    if threat.peaked:
        _lower_limit(descent, const, search_steps)
    else:
        _bisect_const(descent, 1e-3 if const is None else const, rounds)
    return near.result(descent.strongest)


def _bisect_const(descent: "_Descent", const: float, rounds: int) -> None:
    """Rounds from the clean image, each with the constant of each image that bisection gives."""
    clean = descent.near.x
    weight, low = clean.new_full((len(clean),), const), clean.new_zeros(len(clean))
    high = torch.full_like(weight, torch.inf)
    descent.offer(descent.everyone, clean, descent.near.look(clean))
    for _ in range(rounds):
        index = descent.open()
        if len(index) == 0:
            return
        reached, _ = descent.run(index, clean, weight, torch.zeros_like(weight))
        low = torch.where(reached, low, torch.maximum(low, weight))
        high = torch.where(reached, torch.minimum(high, weight), high)
        weight = torch.where(high.isfinite(), (low + high) / 2, 10 * weight)


def _lower_limit(descent: "_Descent", const: float | None, rounds: int | None) -> None:
    """Rounds from where the one before ended, under a lower limit or with a larger constant."""
    clean, threat = descent.near.x, descent.near.threat
    start, limit = clean.clone(), threat.radius(clean).clamp_max(1)
    weight = torch.full_like(limit, 1e-5 if const is None else const)
    most = _LARGEST_CONST if const is None or rounds is not None else const
    descent.offer(descent.everyone, clean, descent.near.look(clean))
    done = torch.zeros_like(limit, dtype=torch.bool)
    while rounds is None or rounds > 0:
        index = descent.open(done)
        if len(index) == 0:
            return
        reached, start = descent.run(index, start, weight, limit)
        lower = _LIMIT_FACTOR * torch.minimum(limit, threat.distance(clean, start))
        limit = torch.where(reached, lower, limit)
        weight = torch.where(reached, weight, 2 * weight)
        done = (limit <= _SMALLEST_LIMIT) & reached | (weight > most)
        rounds = None if rounds is None else rounds - 1


@dataclass
class _Descent:
    """Rounds of Adam, and the image of largest margin on the way.

    Args:
        near: where successes are kept.
        objective: the margin.
        steps: per round.
        step_size: Adam's.
        confidence: the margin beyond which nothing is gained.
    """

    near: Nearest
    objective: Objective
    steps: int
    step_size: float
    confidence: float

    def __post_init__(self) -> None:
        """Start with nothing found."""
        facts = facts_of(self.near.model)
        self.leaves = not (facts.stochastic or facts.batch_dependent)
        self.everyone = torch.arange(len(self.near.x), device=self.near.x.device)
        self.strongest = self.near.x.clone()
        self.peak = self.near.x.new_full((len(self.near.x),), -torch.inf)

    def open(self, done: Tensor | None = None) -> Tensor:
        """Return who needs another round: whose own image is a success does not."""
        if not self.leaves:
            return self.everyone[:0] if done is not None and bool(done.all()) else self.everyone
        left = self.near.distance > 0
        return (left if done is None else left & ~done).nonzero().squeeze(1)

    def run(
        self, index: Tensor, start: Images, const: Tensor, limit: Tensor
    ) -> tuple[Tensor, Images]:
        """Take the steps of one round, for some of the images.

        Returns:
            (N,) which of them succeeded, under Linf within the limit, and (N, C, H, W) where they
            did so last, or else stood last.
        """
        near, threat = self.near, self.near.threat
        reached, there = torch.zeros_like(self.peak, dtype=torch.bool), start.clone()
        before, since = torch.full_like(self.peak, torch.inf), torch.zeros_like(self.peak)
        adam = _Adam((_INSIDE * (2 * start[index] - 1)).atanh(), self.step_size)
        for step in range(1, self.steps + 2):  # the last image is only looked at
            image, weight = (adam.value.tanh() + 1) / 2, const[index]
            slope = input_gradient(
                near.model, image, self._clamped(index), eot=near.eot, batch_size=near.batch_size
            )
            cost, pull = threat.cost(image - near.x[index], limit[index])
            won = self.offer(index, image, slope.logits)
            if threat.peaked:
                won &= cost <= 1e-4 * weight
            kept = (won | ~reached[index]).view(-1, 1, 1, 1)
            there[index] = torch.where(kept, image, there[index])
            reached[index] |= won
            if step > self.steps:
                break
            patience = max(_PATIENCE, self.steps // 10)
            if step % patience == 0:
                total = cost + weight * (self.confidence - slope.loss)
                fell = total <= 0.9999 * before[index]
                since[index] = torch.where(fell, step, since[index])
                before[index] = total
            stalled = step - since[index]
            if threat.peaked:
                stay = (stalled < patience) & ~won
            else:  # values at the box take long before they do anything
                stay = stalled < torch.where(reached[index], patience, 5 * patience)
            push = column(weight, pull) * slope.gradient
            adam.step(2 * image * (1 - image) * (pull - push))
            if self.leaves and not bool(stay.all()):
                index = index[stay]
                adam.select(stay)
                if len(index) == 0:
                    break
        return reached, there

    def offer(self, index: Tensor, images: Images, logits: Logits) -> Tensor:
        """Take images into account; return (M,) which of them succeed."""
        won = self.near.offer(index, images, logits)
        value = self.objective(logits, index).to(self.peak)
        stronger = value > self.peak[index]
        self.strongest[index] = torch.where(
            stronger.view(-1, 1, 1, 1), images, self.strongest[index]
        )
        self.peak[index] = torch.maximum(value, self.peak[index])
        return won

    def _clamped(self, index: Tensor) -> Objective:
        """The margin of some of the images, up to the confidence."""
        return lambda z, i: self.objective(z, index[i]).clamp_max(self.confidence)


class _Adam:
    """Adam (Kingma & Ba 2015, arXiv:1412.6980) on variables that leave one by one.

    Args:
        value: (M, C, H, W) the variables.
        step_size: of each step.
    """

    def __init__(self, value: Tensor, step_size: float) -> None:
        self.value, self.step_size, self.steps = value, step_size, 0
        self.mean, self.square = torch.zeros_like(value), torch.zeros_like(value)

    def step(self, gradient: Tensor) -> None:
        """Move the variables against a gradient."""
        self.steps += 1
        self.mean.lerp_(gradient, 0.1)
        self.square.mul_(0.999).addcmul_(gradient, gradient, value=0.001)
        root = (self.square / (1 - 0.999**self.steps)).sqrt_().add_(1e-8)
        self.value.addcdiv_(self.mean, root, value=-self.step_size / (1 - 0.9**self.steps))

    def select(self, stay: Tensor) -> None:
        """Go on with some of the variables."""
        self.value, self.mean, self.square = (t[stay] for t in (self.value, self.mean, self.square))
