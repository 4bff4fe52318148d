"""Auto-PGD: projected gradient ascent that finds its own step size."""

from dataclasses import replace

from torch import nn

from redoubtable.attacks.apgd_rules import Halving, Sparsity
from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.search import Search
from redoubtable.gradients import input_gradient
from redoubtable.losses import Objective, aim, check_losses, cross_entropy, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L1, L2, Linf, ThreatModel
from redoubtable.types import Images, Labels, Loss


@ATTACKS.register("apgd", threats=(Linf, L2, L1), access="gradient")
def apgd(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    steps: int = 100,
    restarts: int = 1,
    alpha: float = 0.75,
    loss: Loss = cross_entropy,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """Auto-PGD (Croce & Hein 2020, arXiv:2003.01690, algorithm 1; in L1 2021, arXiv:2103.01208).

    No step size to choose: it starts at 2 eps and is halved at checkpoints where too few steps
    raised the loss, and the search then goes on from its best iterate. Under L1 the steps move few
    values, whose number follows the sparsity of the best iterate, first in balls of three times and
    twice the radius (2021, section 4).

    The defaults are those of AutoAttack's APGD-CE; `loss=dlr` gives APGD-DLR. The best iterate of
    the climb is the one of largest loss, as published; what is returned is ranked by `success`.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: with a finite radius.
        targets: (N,) classes to be taken for; None to leave the true class.
        steps: steps per restart, at least 1.
        restarts: random starts, at least 1.
        alpha: weight of the new step beside the last one, in (0, 1]; 1 for no momentum. Not used
            under L1.
        loss: what is raised.
        success: a margin, positive once the attack succeeded; candidates are ranked by it.
        eot: random draws that each gradient is averaged over.
        batch_size: images in one pass.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the iterate of largest `success`.

    Raises:
        ValueError: the radius is infinite, or an argument is out of range.
    """
    check_losses(facts_of(model).abstains, loss=loss)
    search = Search(model, x, y, targets, success, stop, batch_size)
    for _ in range(_checked(restarts)):
        climb(search, threat, aim(loss, y, targets), steps=steps, alpha=alpha, eot=eot)
    return search.strongest(eot)


def climb(
    search: Search,
    threat: ThreatModel,
    objective: Objective,
    *,
    steps: int,
    alpha: float = 0.75,
    eot: int = 1,
) -> None:
    """Run APGD once from random starts, for the examples that are open; every iterate is offered.

    Args:
        search: takes the iterates; its images are the clean ones.
        threat: with a finite radius.
        objective: of logits and the indices of their examples, what is raised.
        steps: at least 1.
        alpha: weight of the new step beside the last one.
        eot: random draws that each gradient is averaged over.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}")
    if not 0 < alpha <= 1:
        raise ValueError(f"`alpha` must lie in (0, 1], got {alpha}")
    if not bool(threat.radius(search.x).isfinite().all()):
        raise ValueError("apgd takes its step size from the radius; give a finite `eps`")
    # All starts are drawn, so that an example's own does not depend on which others are open.
    rule, left, start = (Sparsity if threat.sparse else Halving), steps, None
    for factor, share in rule.radii:
        count = left if factor == 1 else int(share * steps)
        left -= count
        if count:
            ball = replace(threat, eps=factor * threat.eps)
            start = ball.sample(search.x) if start is None else ball.project(start, search.x)
            start = _climb(search, start, rule, ball, objective, count, alpha, eot, factor == 1)


def _climb(
    search: Search,
    start: Images,
    rule: type[Halving | Sparsity],
    threat: ThreatModel,
    objective: Objective,
    steps: int,
    alpha: float,
    eot: int,
    legal: bool,
) -> Images:
    """Climb in one ball and return the iterates of largest loss; only legal ones are offered."""
    peaks, index = start.clone(), search.open
    clean, ball, checkpoints = search.x[index], threat.select(index), rule.checkpoints(steps)
    track = rule.begin(start[index], clean, ball.radius(clean))
    for step in range(steps):
        if len(index) == 0:
            return peaks
        slope = input_gradient(
            search.model,
            track.here,
            lambda z, i, index=index: objective(z, index[i]),  # type: ignore[misc]
            eot=eot,
            batch_size=search.batch_size,
        )
        track.see(slope)
        if legal:
            still = search.offer(index, track.here, slope.logits)
            if not bool(still.all()):
                index, clean, track = index[still], clean[still], track.only(still)
                ball = threat.select(index)
        if step in checkpoints:
            track.check(clean, ball, checkpoints[step])
        track.move(clean, ball, alpha if step else 1.0)
    if legal and len(index):
        search.offer(index, track.here, search.look(track.here, eot))
    peaks[index] = track.peak
    return peaks


def _checked(restarts: int) -> int:
    if restarts < 1:
        raise ValueError(f"`restarts` must be at least 1, got {restarts}")
    return restarts
