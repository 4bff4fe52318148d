"""The Jacobian-based saliency map attack."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.search import Search
from redoubtable.gradients import input_gradient
from redoubtable.losses import Objective, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L0, ThreatModel
from redoubtable.types import Images, Labels, Logits, Loss

_ENTRIES = 2**24
"""Pairs of features in memory at a time, over all images."""

_FULL = 0.01
"""How close to the box a feature is left alone: clipped, it would change by next to nothing."""


@ATTACKS.register("jsma", threats=(L0,), access="gradient")
def jsma(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    classes: int | None = None,
    theta: float = 1.0,
    gamma: float = 0.1,
    on: Literal["logits", "probabilities"] = "logits",
    pairs: bool = True,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """Jacobian-based saliency map attack (Papernot et al. 2016, arXiv:1511.07528, algorithms 2, 3).

    Adds `theta`, once each, to the pair of features (values) that together raise the target most
    and the sum of the other classes least: of all pairs with a = sum of the target's slopes > 0
    and b = sum of the others' < 0 the one of largest -a b. Where there is none (the paper stops,
    CleverHans takes any pair), the one feature of largest a - b > 0 changes. It goes on until the
    image is a success, nothing is left, or floor(gamma * features / 2) pairs, and at least one, are
    changed; under L0 also no more than eps pixels, each counted once for all its channels. The map
    is of logits as in CleverHans 3, or of probabilities as in the paper.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: L0.
        targets: (N,) classes to be taken for; None to leave the true class.
        classes: without targets: how many of the likeliest wrong classes are aimed at in turn. None
            for a single one at random (Feinman et al. 2017, arXiv:1703.00410).
        theta: what is added to a feature: 1 sets it to 1, -1 to 0.
        gamma: largest share of features to change.
        on: what the map is the derivative of.
        pairs: change two features at a time; False for one (the paper's section IV.B).
        success: a margin, positive once the attack succeeded.
        eot: random draws that each map is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images.
    """
    if theta == 0 or not 0 < gamma <= 1 or (classes is not None and classes < 1):
        raise ValueError(
            "`theta` must not be 0, `gamma` lie in (0, 1] and `classes` be at least 1, got "
            f"{theta}, {gamma} and {classes}"
        )
    search = Search(model, x, y, targets, success, stop, batch_size)
    goals = [targets] if targets is not None else _goals(search, classes, eot)
    steps = max(1, int(gamma * x[0].numel() / (2 if pairs else 1))) if len(x) else 0
    for goal in goals:
        saliency = _Saliency(search, goal, on, eot)
        _fill(search, saliency, threat, steps, theta, pairs)
    return search.strongest(eot)


def _goals(search: Search, classes: int | None, eot: int) -> list[Labels]:
    """One random wrong class of each image, or its likeliest ones in turn."""
    logits = search.look(search.x, eot)
    logits = logits[:, : logits.shape[1] - facts_of(search.model).abstains]
    if classes is None:
        away = torch.randint(1, logits.shape[1], search.y.shape, device=search.y.device)
        return [(search.y + away) % logits.shape[1]]
    ranked = logits.scatter(1, search.y[:, None], -torch.inf).argsort(1, descending=True)
    return list(ranked[:, : min(classes, logits.shape[1] - 1)].T)


@dataclass(frozen=True)
class _Saliency:
    """The slopes of the target and of the sum of all other classes.

    Args:
        search: whose model it is.
        goal: (N,) targets.
        on: "logits" or "probabilities".
        eot: random draws.
    """

    search: Search
    goal: Labels
    on: str
    eot: int

    def __call__(self, index: Tensor, images: Images) -> tuple[Tensor, Tensor, Logits]:
        """Return two (M, features) tensors, and the (M, K) logits of the images."""
        goal = self.goal[index]

        def target(z: Logits, i: Tensor) -> Tensor:
            scores = z.softmax(1) if self.on == "probabilities" else z
            return scores.gather(1, goal[i, None]).squeeze(1)

        own, logits = self._slope(images, target)
        if self.on == "probabilities":  # they add up to 1
            return own, -own, logits
        rest, _ = self._slope(images, lambda z, i: z.sum(1) - target(z, i))
        return own, rest, logits

    def _slope(self, images: Images, objective: Objective) -> tuple[Tensor, Logits]:
        search = self.search
        slope = input_gradient(
            search.model, images, objective, eot=self.eot, batch_size=search.batch_size
        )
        return slope.gradient.flatten(1), slope.logits


def _fill(
    search: Search, saliency: _Saliency, threat: ThreatModel, steps: int, theta: float, pairs: bool
) -> None:
    """Change one pair, or one feature, after another, for the examples that are open."""
    facts, sign = facts_of(search.model), 1.0 if theta > 0 else -1.0
    leaves = not (facts.stochastic or facts.batch_dependent)
    x_adv, index, radius = search.x.clone(), search.open, threat.radius(search.x)
    unused = (x_adv < 1 - _FULL if theta > 0 else x_adv > _FULL).flatten(1)
    for _ in range(steps):
        if len(index) == 0:
            return
        here = x_adv[index]
        own, rest, logits = saliency(index, here)
        still = search.offer(index, here, logits)
        index, here, own, rest = index[still], here[still], own[still], rest[still]
        if len(index) == 0:
            return
        changed = (here != search.x[index]).any(1, keepdim=True).expand_as(here).flatten(1)
        room = radius[index] - changed.sum(1) / here.shape[1]
        usable = unused[index] & (changed | (room[:, None] >= 1))
        up, down = sign * own, -sign * rest
        chosen, exists = _best_feature(up + down, usable)
        if pairs:
            pair, salient = _best_pair(up, down, usable, changed, room, here[0, 0].numel())
        else:
            pair, salient = _best_feature((up * down).masked_fill((up < 0) | (down < 0), 0), usable)
        chosen, exists = torch.where(salient[:, None], pair, chosen), exists | salient
        move = torch.zeros_like(own).scatter_(1, chosen, theta) * exists[:, None]
        x_adv[index] = (here + move.view_as(here)).clamp(0, 1)
        unused[index] &= move == 0
        if leaves:  # their images have been offered
            index = index[exists]
    if len(index):
        search.offer(index, x_adv[index], search.look(x_adv[index], saliency.eot))


def _best_feature(score: Tensor, usable: Tensor) -> tuple[Tensor, Tensor]:
    """Return (M, 1) the usable feature of largest score, and (M,) whether the score is positive."""
    best, at = score.masked_fill(~usable, 0).max(1, keepdim=True)
    return at, best.squeeze(1) > 0


def _best_pair(
    up: Tensor, down: Tensor, usable: Tensor, changed: Tensor, room: Tensor, pixels: int
) -> tuple[Tensor, Tensor]:
    """Return (M, 2) the pair of largest product of sums, both positive, and (M,) if there is one.

    A feature that two others exceed in both is in no best pair, which leaves few to compare. Where
    there is room for one new pixel only, the pair has one feature at least in a changed pixel, or
    both in the new one.
    """
    front = _two_layers(up, down, usable & changed) | _two_layers(up, down, usable & ~changed)
    most = max(2, int(front.sum(1).max()))  # one number for the whole batch, as its size is
    kept, few = front.to(torch.uint8).topk(min(most, front.shape[1]), dim=1)
    found = [
        _compare(few[i], kept[i] > 0, up[i], down[i], changed[i], room[i], pixels)
        for i in torch.split(torch.arange(len(up), device=up.device), max(1, _ENTRIES // most**2))
    ]
    return torch.cat([pair for pair, _ in found]), torch.cat([exists for _, exists in found])


def _compare(
    few: Tensor,
    kept: Tensor,
    up: Tensor,
    down: Tensor,
    changed: Tensor,
    room: Tensor,
    pixels: int,
) -> tuple[Tensor, Tensor]:
    """The best pair among the (M, k) features `few`, those that are `kept`."""
    a, b = (v.gather(1, few) for v in (up, down))
    a, b = a[:, :, None] + a[:, None], b[:, :, None] + b[:, None]
    new, pixel = ~changed.gather(1, few), few % pixels
    two_new = new[:, :, None] & new[:, None] & (pixel[:, :, None] != pixel[:, None])
    fits = (room[:, None, None] >= 2) | ~two_new
    fits = fits & kept[:, :, None] & kept[:, None] & (a > 0) & (b > 0)
    score = (a * b).masked_fill(~fits, 0)
    score.diagonal(dim1=1, dim2=2).zero_()
    best, at = score.flatten(1).max(1)
    pair = torch.stack([at // few.shape[1], at % few.shape[1]], 1)
    return few.gather(1, pair), best > 0


def _two_layers(up: Tensor, down: Tensor, usable: Tensor) -> Tensor:
    """(M, features) mask of what no other exceeds in both values, and of the same without these."""
    order = up.masked_fill(~usable, -torch.inf).argsort(1, descending=True)
    left = down.masked_fill(~usable, -torch.inf).gather(1, order)
    mask = torch.zeros_like(usable)
    for _ in range(2):
        before = left.cummax(1).values.roll(1, 1)
        before[:, 0] = -torch.inf
        layer = left > before
        mask |= layer
        left = left.masked_fill(layer, -torch.inf)
    return torch.zeros_like(usable).scatter_(1, order, mask)
