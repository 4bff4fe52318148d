"""HopSkipJump: along the decision boundary, seeing nothing but decisions."""

import math

import torch
from torch import Tensor, nn

from redoubtable.attacks.crowd import per_pass
from redoubtable.attacks.nearest import Nearest
from redoubtable.attacks.registry import ATTACKS, check_threat
from redoubtable.losses import Objective, aim, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L2, Linf, ThreatModel
from redoubtable.threat.base import column
from redoubtable.types import Images, Labels, Logits, Loss

_TRIES = 50
"""Starts that are tried for an example."""
_HALVINGS = 15
"""How often a step is halved that leads back across the boundary."""
_MOST_PROBES = 10_000
_FIRST_PROBE = 0.1


@ATTACKS.register("hop_skip_jump", threats=(L2, Linf), access="label", minimal=True)
def hop_skip_jump(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    queries: int = 5000,
    draws: int = 100,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
) -> Images:
    """HopSkipJump (Chen, Jordan & Wainwright 2020, arXiv:1904.02144, algorithm 2).

    From a misclassified image: a binary search for the boundary, the direction of the boundary's
    normal from decisions at random points around, a step along it that is halved until it stays
    misclassified, and again. All examples go side by side, and each is asked at most `queries`
    times. It finds the smallest change it can, whatever the radius.

    It starts from noise, then from noise blended with the image and from images of `x` of another
    class (towards a target: of that class); where none of fifty is misclassified it fails. The
    binary search goes on to the share d^(-3/2) of the distance under Linf too, where the paper
    states d^-2, which single precision does not resolve.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: L2 or Linf; `eps` may be inf.
        targets: (N,) classes to be taken for; None to leave the true class.
        queries: decisions asked for per image; the paper reports up to 25,000.
        draws: points around for the first normal; the t-th takes sqrt(t) times as many.
        success: a margin, positive once the attack succeeded; only its sign is used.
        eot: random draws that the answer behind a decision is averaged over.
        batch_size: images in one pass; None for as many as go through a network well.

    Returns:
        (N, C, H, W) legal images: the nearest success, projected where it is too far.
    """
    if queries < 1 or draws < 1:
        raise ValueError(f"`queries` and `draws` must be at least 1, got {queries} and {draws}")
    check_threat("hop_skip_jump", threat)
    nearest = Nearest(model, x, y, targets, success, threat, eot, batch_size)
    hidden = _Decisions(nearest, aim(success, y, targets), queries)
    start = _starts(hidden, y, targets)
    index = nearest.found.nonzero().squeeze(1)
    bits = math.ceil(1.5 * math.log2(x[0].numel())) + 1
    here, turn = nearest.best[index], 0
    while len(index):
        here = hidden.boundary(index, here, bits)
        # The next jump needs its halvings and a search for the boundary after it.
        count = min(int(draws * math.sqrt(turn + 1)), _MOST_PROBES, hidden.left - bits - 5)
        if count < 2:
            break
        turn += 1
        far = nearest.threat.distance(nearest.x[index], here)
        probe = torch.full_like(far, _FIRST_PROBE) if turn == 1 else far / x[0].numel()
        normal = hidden.normal(index, here, probe, count)
        here = hidden.jump(index, here, normal, far / math.sqrt(turn))
    return nearest.result(start)


class _Decisions:
    """A model that tells nothing but whether an image succeeds, and how often it was asked.

    Attributes:
        left: how often each example may still be asked.
    """

    def __init__(self, nearest: Nearest, rank: Objective, queries: int) -> None:
        self.nearest, self.left = nearest, queries
        self._rank = rank
        self._together = facts_of(nearest.model).batch_dependent

    def ask(self, index: Tensor, images: Images) -> Tensor:
        """Return which of the (M,) examples' images succeed; the nearest are kept."""
        self.left -= 1
        return self.nearest.offer(index, images, self._look(index, images))

    def boundary(self, index: Tensor, images: Images, bits: int) -> Images:
        """Return the successes next to the boundary, on the way to the clean images."""
        x, threat = self.nearest.x[index], self.nearest.threat
        delta, far = images - x, threat.distance(x, images)

        def between(share: Tensor) -> Images:
            # Clipped to a smaller ball: along the line under L2, value by value under Linf.
            return (x + type(threat)(share * far).clip(delta)).clamp(0, 1)

        low, high = torch.zeros_like(far), torch.ones_like(far)
        best = images
        for _ in range(min(bits, self.left)):
            middle = (low + high) / 2
            tried = between(middle)
            won = self.ask(index, tried)
            best = torch.where(won.view(-1, 1, 1, 1), tried, best)
            low, high = torch.where(won, low, middle), torch.where(won, middle, high)
        return best

    def normal(self, index: Tensor, images: Images, probe: Tensor, count: int) -> Tensor:
        """Return an estimate of the boundary's normal (equation 16), of any length.

        The directions are uniform in the ball of the norm, at unit Euclidean length, and
        what the box cuts off does not count.
        """
        self.left -= count
        ball, size = type(self.nearest.threat)(1.0), probe.view(-1, 1, 1, 1)
        signed, plain = torch.zeros_like(images), torch.zeros_like(images)
        total = torch.zeros_like(probe)
        most = per_pass(len(images), self.nearest.batch_size, self._together, images)
        for first in range(0, count, most):
            m = min(most, count - first)
            clean, whose = images.repeat(m, 1, 1, 1), index.repeat(m)
            noise = ball.noise(clean)
            length = torch.linalg.vector_norm(noise.flatten(1), dim=1)
            noise = noise / column(length.clamp_min(1e-12), noise)
            points = (clean + noise * size.repeat(m, 1, 1, 1)).clamp(0, 1)
            won = self._rank(self._look(whose, points), whose) > 0
            vote = won.to(images) * 2 - 1
            moved = (points - clean).view(m, *images.shape)
            signed += (moved * vote.view(m, -1, 1, 1, 1)).sum(0)
            plain += moved.sum(0)
            total += vote.view(m, -1).sum(0)
        mean = total / count
        # Where all points are on one side their mean is all there is.
        mean = torch.where(mean.abs() == 1, 0.0, mean)
        return signed - column(mean, images) * plain

    def jump(self, index: Tensor, images: Images, normal: Tensor, size: Tensor) -> Images:
        """Step along the normal, by half as much as long as that does not succeed."""
        landed, size = images.clone(), size.clone()
        open_ = torch.arange(len(index), device=index.device)
        for _ in range(_HALVINGS):
            if len(open_) == 0 or self.left <= 0:
                break
            x, here = self.nearest.x[index[open_]], images[open_]
            step = self.nearest.threat.ascent(normal[open_], here, x, size[open_])
            tried = (here + step).clamp(0, 1)
            won = self.ask(index[open_], tried)
            landed[open_[won]] = tried[won]
            open_ = open_[~won]
            size = size / 2
        return landed

    def _look(self, index: Tensor, images: Images) -> Logits:
        """The answers; a model that depends on its batch is shown all examples."""
        whole = self.nearest.x
        if not self._together or len(index) == len(whole):
            return self.nearest.look(images)
        filled = whole.clone()
        filled[index] = images
        return self.nearest.look(filled)[index]


def _starts(hidden: _Decisions, y: Labels, targets: Labels | None) -> Images:
    """Find a success for each example; return the images that were tried last."""
    x = hidden.nearest.x
    tried = x.clone()
    for attempt in range(min(_TRIES, max(hidden.left // 3, 1))):
        index = (~hidden.nearest.found).nonzero().squeeze(1)
        if len(index) == 0:
            break
        new = torch.rand_like(x)
        if attempt % 2 == 1 or (attempt == 0 and targets is not None):
            donors, there = _donors(x, y, targets)
            new = torch.where(there.view(-1, 1, 1, 1), donors, new)
        elif attempt:
            share = torch.rand(len(x), 1, 1, 1, dtype=x.dtype, device=x.device)
            new = x + share * (new - x)
        tried[index] = new[index]
        hidden.ask(index, new[index])
    return tried


def _donors(x: Images, y: Labels, targets: Labels | None) -> tuple[Images, Tensor]:
    """A random image of the target class, or of another than the true one; and who has one."""
    known = y if targets is None else torch.cat([y, targets])
    size = torch.bincount(y, minlength=int(known.max()) + 1)
    order, first = y.argsort(), size.cumsum(0) - size
    draw = torch.rand(len(x), device=x.device)
    if targets is None:
        several = len(x) - size[y]
        place = (draw * several).long()
        place = place + size[y] * (place >= first[y])  # skip the block of the own class
    else:
        several = size[targets]
        place = first[targets] + (draw * several).long()
    return x[order[place.clamp_max(len(x) - 1)]], several > 0
