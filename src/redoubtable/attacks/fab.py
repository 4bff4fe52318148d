"""Fast adaptive boundary attack: short steps along the decision boundary, towards the image."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from redoubtable.attacks.boundary import nearest_boundary
from redoubtable.attacks.nearest import Nearest
from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.rivals import leads_of, of_examples
from redoubtable.losses import Objective, aim, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L1, L2, Linf, ThreatModel
from redoubtable.types import Images, Labels, Loss

_ETA = 1.05
"""How far a step goes beyond the linearised boundary, in its own lengths."""
_BETA = 0.9
"""How much of the change is kept after a success."""
_NUDGE = 0.01
"""The share of what is left that the final search stays away from the estimated boundary."""


@ATTACKS.register("fab", threats=(Linf, L2, L1), access="gradient", minimal=True)
def fab(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    classes: int | None = None,
    steps: int = 100,
    restarts: int = 1,
    alpha: float = 0.1,
    search_steps: int = 3,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """Fast adaptive boundary attack (Croce & Hein 2020, arXiv:1907.02044, algorithm 1).

    Each step goes to the nearest boundary of the linearised model, from where the image stands and,
    with a weight of at most `alpha`, from the clean image; after a success it goes back towards the
    clean image. Both steps are the smallest ones inside the box (section 3.1). A last search on the
    line to the clean image shortens what was found (section 3.4).

    The first start is the clean image, others are drawn within half of the smallest change so far
    (section 3.5). Towards targets, the boundary is the one to the strongest other class.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: what is near; with a finite radius, changes that are larger are projected.
        targets: (N,) classes to be taken for; None to leave the true class.
        classes: how many other classes are linearised, the likeliest for the clean image; None for
            all, as published. Each costs a backward pass at every step.
        steps: steps per restart, at least 1.
        restarts: starts, at least 1.
        alpha: the largest weight of the step from the clean image, in [0, 1].
        search_steps: looks of the last search; 0 for none.
        success: a margin, positive once the attack succeeded.
        eot: random draws that each gradient is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it succeeds within a finite radius (never on a random
            model). With an infinite radius none leaves, and the smallest change is looked for.

    Returns:
        (N, C, H, W) legal images: the nearest success; where there is none within the radius, the
        nearest or the last image, projected.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(steps, restarts, alpha, search_steps)
    nearest = Nearest(model, x, y, targets, success, threat, eot, batch_size)
    leads = _leads(nearest, y, targets, success, classes)
    last = nearest.x.clone()
    for restart in range(restarts):
        _walk(nearest, last, leads, steps=steps, alpha=alpha, first=restart == 0, stop=stop)
    _shorten(nearest, aim(success, y, targets), search_steps)
    return nearest.result(last)


@ATTACKS.register("fab_targeted", threats=(Linf, L2, L1), access="gradient", minimal=True)
def fab_targeted(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    classes: int = 9,
    steps: int = 100,
    restarts: int = 1,
    alpha: float = 0.1,
    search_steps: int = 3,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """FAB along the boundary to one class after another (Croce & Hein 2020, arXiv:2003.01690, C).

    The form of AutoAttack: the boundary to each of the likeliest classes of the clean image in
    turn, so that a step costs one backward pass however many classes there are. Any wrong answer
    counts as a success.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: what is near; with a finite radius, changes that are larger are projected.
        targets: (N,) classes to be taken for, then the only ones that count, as in `fab`.
        classes: how many classes are taken in turn, fewer if the model has no more.
        steps: steps per restart, at least 1.
        restarts: starts for each class, at least 1.
        alpha: the largest weight of the step from the clean image, in [0, 1].
        search_steps: looks of the last search; 0 for none.
        success: a margin, positive once the attack succeeded.
        eot: random draws that each gradient is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it succeeds within a finite radius (never on a random
            model). With an infinite radius none leaves, and the smallest change is looked for.

    Returns:
        (N, C, H, W) legal images: the nearest success; where there is none within the radius, the
        nearest or the last image, projected.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(steps, restarts, alpha, search_steps)
    nearest = Nearest(model, x, y, targets, success, threat, eot, batch_size)
    last = nearest.x.clone()
    for lead in _leads(nearest, y, targets, success, classes):
        for restart in range(restarts):
            _walk(nearest, last, [lead], steps=steps, alpha=alpha, first=restart == 0, stop=stop)
    _shorten(nearest, aim(success, y, targets), search_steps)
    return nearest.result(last)


def _leads(
    nearest: Nearest, y: Labels, targets: Labels | None, success: Loss, classes: int | None
) -> list[Objective]:
    """Look at the clean images, which may be successes already, and say which boundaries count."""
    logits = nearest.look(nearest.x)
    nearest.offer(torch.arange(len(y), device=y.device), nearest.x, logits)
    return leads_of(logits, y, targets, success, classes, facts_of(nearest.model).abstains)


def _walk(
    nearest: Nearest,
    last: Images,
    leads: Sequence[Objective],
    *,
    steps: int,
    alpha: float,
    first: bool,
    stop: bool,
) -> None:
    """Go `steps` steps for the examples that are open; `last` is written to."""
    threat, facts = nearest.threat, facts_of(nearest.model)
    radius = threat.radius(nearest.x)
    start = nearest.x
    if not first:
        # Drawn for all, so that an example's own start does not depend on which others are open.
        start = replace(threat, eps=torch.minimum(nearest.distance, radius) / 2).sample(start)
    leaves = stop and not (facts.stochastic or facts.batch_dependent)
    near = radius.masked_fill(~radius.isfinite(), 0) if leaves else torch.full_like(radius, -1)
    index = (nearest.distance > near).nonzero().squeeze(1)
    here, clean = start[index], nearest.x[index]
    for _ in range(steps):
        if len(index) == 0:
            return
        there = _step(nearest, here, clean, of_examples(leads, index), alpha)
        won = nearest.offer(index, there, nearest.look(there))
        last[index] = there
        back = clean + _BETA * (there - clean)
        here = torch.where(won.view(-1, 1, 1, 1), back, there)
        still = nearest.distance[index] > near[index]
        if not bool(still.all()):
            index, here, clean = index[still], here[still], clean[still]


def _step(
    nearest: Nearest, here: Images, clean: Images, leads: Sequence[Objective], alpha: float
) -> Images:
    """Beyond the boundary from two sides: from `here` and, with less weight, from the image."""
    threat = nearest.threat
    slope = nearest_boundary(
        nearest.model, here, leads, threat, eot=nearest.eot, batch_size=nearest.batch_size
    )
    onward = threat.reach(slope.gradient, -slope.loss, here)
    moved = (slope.gradient * (clean - here)).flatten(1).sum(1)
    outward = threat.reach(slope.gradient, -slope.loss - moved, clean)
    near, far = threat.norm(onward), threat.norm(outward)
    tiny = torch.finfo(near.dtype).tiny
    weight = (near / (near + far).clamp_min(tiny)).clamp_max(alpha).view(-1, 1, 1, 1)
    mixed = (1 - weight) * (here + _ETA * onward) + weight * (clean + _ETA * outward)
    return mixed.clamp(0, 1)


def _shorten(nearest: Nearest, lead: Objective, looks: int) -> None:
    """Look for the boundary between each success and its image, by false position."""
    index = nearest.found.nonzero().squeeze(1)
    if len(index) == 0 or looks == 0:
        return
    clean, found = nearest.x[index], nearest.best[index].clone()
    low, high = torch.zeros_like(nearest.distance[index]), torch.ones_like(nearest.distance[index])
    below, above = (lead(nearest.look(images), index) for images in (clean, found))
    tiny = torch.finfo(low.dtype).tiny
    for _ in range(looks):
        share = below.clamp_max(0) / (below.clamp_max(0) - above.clamp_min(0)).clamp_max(-tiny)
        at = low + (high - low) * (share + _NUDGE * (1 - share))
        images = clean + at.view(-1, 1, 1, 1) * (found - clean)
        logits = nearest.look(images)
        won, value = nearest.offer(index, images, logits), lead(logits, index)
        high, above = torch.where(won, at, high), torch.where(won, value, above)
        low, below = torch.where(won, low, at), torch.where(won, below, value)


def _check(steps: int, restarts: int, alpha: float, search_steps: int) -> None:
    for name, value, least in (
        ("steps", steps, 1),
        ("restarts", restarts, 1),
        ("search_steps", search_steps, 0),
    ):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}")
    if not 0 <= alpha <= 1:
        raise ValueError(f"`alpha` must lie in [0, 1], got {alpha}")
