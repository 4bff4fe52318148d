"""Many short targeted climbs, with the effort where it may still change the verdict."""

import math

import torch
from torch import Tensor, nn

from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.search import Search
from redoubtable.gradients import input_gradient
from redoubtable.losses import Objective, aim, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L1, L2, Linf, ThreatModel
from redoubtable.types import Images, Labels, Logits, Loss

_KEEP = 0.75
"""The share of what still stands, closest to the boundary first, that goes on after a climb."""
_TRIED = 2.0
"""What a class loses in rank each time it was aimed at: more than likelihood can make up for."""


@ATTACKS.register("lean", threats=(Linf, L2, L1), access="gradient")
def lean(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    steps: int = 30,
    restarts: int = 12,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """Short climbs on the margin to one class each, after Liu et al. 2022 (arXiv:2203.05154).

    Of their two ideas: a climb starts where others succeeded, and hopeless examples are left. The
    first climb is untargeted and starts at the image. Each further one starts at random and aims at
    one class: the likeliest by the example's best image so far and by the classes that finished
    examples with the same label fell into, those aimed at before last. Steps shrink along a cosine
    from twice the radius. From the second climb on the quarter of the standing examples whose
    margins are widest is left after each. (Theirs aims random directions in the space of logits;
    one class at a time needs fewer climbs here.)

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: with a finite radius.
        targets: (N,) classes to be taken for, which every climb then aims at; None to leave the
            true class.
        steps: steps of one climb, at least 1.
        restarts: climbs, at least 1.
        success: a margin, positive once the attack succeeded; candidates are ranked by it.
        eot: random draws that each gradient is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified or hopeless (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the iterate of largest `success`.

    Raises:
        ValueError: the radius is infinite, or a count is below 1.
    """
    if steps < 1 or restarts < 1:
        raise ValueError(f"`steps` and `restarts` must be at least 1, got {steps} and {restarts}")
    threat.default_step(1)  # refuses an infinite radius
    search = Search(model, x, y, targets, success, stop, batch_size)
    index, goal, aimed = search.open, targets, None
    for restart in range(restarts):
        start = search.x if restart == 0 else threat.sample(search.x)
        _climb(search, index, start[index], threat, aim(success, y, goal), steps, eot)
        index = _hopeful(search, index, restart)
        if len(index) == 0 or restart + 1 == restarts:
            break
        if targets is None:
            answers = search.look(search.best, eot)
            # The rejection of a model that abstains is no class to be taken for.
            answers = answers[:, : answers.shape[1] - facts_of(model).abstains]
            aimed = torch.zeros_like(answers) if aimed is None else aimed
            goal = _next_goal(answers, y, search.finished, aimed)
            aimed.scatter_add_(1, goal[:, None], torch.ones_like(aimed[:, :1]))
    return search.strongest(eot)


def _climb(
    search: Search,
    index: Tensor,
    x_adv: Images,
    threat: ThreatModel,
    objective: Objective,
    steps: int,
    eot: int,
) -> None:
    """Climb from `x_adv` for the examples of `index`; every iterate is offered to the search."""
    for step in range(steps):
        if len(index) == 0:
            return
        origin = index
        slope = input_gradient(
            search.model,
            x_adv,
            lambda z, i, origin=origin: objective(z, origin[i]),  # type: ignore[misc]
            eot=eot,
            batch_size=search.batch_size,
        )
        still = search.offer(index, x_adv, slope.logits)
        index, x_adv, gradient = index[still], x_adv[still], slope.gradient[still]
        ball, clean = threat.select(index), search.x[index]
        size = ball.radius(clean) * (1 + math.cos(math.pi * step / steps))
        x_adv = ball.project(x_adv + ball.ascent(gradient, x_adv, clean, size), clean)
    if len(index):
        search.offer(index, x_adv, search.look(x_adv, eot))


def _next_goal(answers: Logits, y: Labels, finished: Tensor, aimed: Tensor) -> Labels:
    """The class that each example is to be taken for next.

    Its likelihood for the best image so far, the true class left out, and its share among the
    classes that finished examples of the same label were taken for, less what was tried.
    """
    likely = answers.scatter(1, y[:, None], -torch.inf)
    fell_into = torch.zeros(answers.shape[1], answers.shape[1]).to(answers)
    pairs = y * answers.shape[1] + likely.argmax(1)
    fell_into.view(-1).index_add_(0, pairs, finished.to(answers))
    share = fell_into / fell_into.sum(1, keepdim=True).clamp_min(1)
    rank = likely.softmax(1) + share[y] - _TRIED * aimed
    return rank.scatter(1, y[:, None], -torch.inf).argmax(1)


def _hopeful(search: Search, index: Tensor, restart: int) -> Tensor:
    """The examples that go on: open ones, from the second climb on those nearest to falling."""
    if not search.stops:
        return index
    index = index[~search.finished[index]]
    if restart == 0:
        return index
    kept = math.ceil(_KEEP * len(index))
    return index[search.value[index].argsort(descending=True, stable=True)[:kept].sort().values]
