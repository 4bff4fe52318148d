"""DeepFool: small steps across the nearest boundary of a linearised model."""

import torch
from torch import nn

from redoubtable.attacks.boundary import nearest_boundary
from redoubtable.attacks.nearest import Nearest
from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.rivals import leads_of, of_examples
from redoubtable.losses import margin
from redoubtable.parts import facts_of
from redoubtable.threat import L1, L2, Linf, ThreatModel
from redoubtable.types import Images, Labels, Loss

_OVERSHOOT = 0.02
"""How much further the whole change goes than to the boundary (section 4)."""


@ATTACKS.register("deepfool", threats=(Linf, L2, L1), access="gradient", minimal=True)
def deepfool(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    classes: int = 10,
    steps: int = 50,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
) -> Images:
    """DeepFool (Moosavi-Dezfooli et al. 2016, arXiv:1511.04599, algorithm 2; in L_p section 3.3).

    Each step leads to the nearest boundary of the model as it is linearised where the image stands;
    the change, made 2% longer, crosses it. An example is done once it is misclassified (on a random
    model none is, and the nearest success counts).

    The paper's images have no range: here a step is the smallest one that stays in the box, which
    is the same wherever the box is far. Towards targets, which the paper leaves out, the boundary
    is the one to the strongest other class.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: what is near; with a finite radius, changes that are larger are projected.
        targets: (N,) classes to be taken for; None to leave the true class.
        classes: the likeliest classes of the clean image, its own among them, that are linearised
            (10 in the authors' code).
        steps: at most so many, at least 1.
        success: a margin, positive once the attack succeeded.
        eot: random draws that each gradient is averaged over.
        batch_size: images in one pass.

    Returns:
        (N, C, H, W) legal images: the first success; where there is none within the radius, the
        nearest or the last image, projected.

    Raises:
        ValueError: an argument is out of range.
    """
    if steps < 1:
        raise ValueError(f"`steps` must be at least 1, got {steps}")
    if classes < 2:
        raise ValueError(f"`classes` must be at least 2, one's own and another, got {classes}")
    facts = facts_of(model)
    nearest = Nearest(model, x, y, targets, success, threat, eot, batch_size)
    leads = leads_of(nearest.look(nearest.x), y, targets, success, classes - 1, facts.abstains)
    leaves = not (facts.stochastic or facts.batch_dependent)
    images, change = nearest.x.clone(), torch.zeros_like(nearest.x)
    index = torch.arange(len(x), device=x.device)
    for _ in range(steps):
        here = images[index]
        slope = nearest_boundary(
            model, here, of_examples(leads, index), threat, eot=eot, batch_size=batch_size
        )
        won = nearest.offer(index, here, slope.logits)
        step = threat.reach(slope.gradient, -slope.loss, here)
        if leaves:
            index, step = index[~won], step[~won]
        if len(index) == 0:
            return nearest.result(images)
        change[index] += step
        images[index] = (nearest.x[index] + (1 + _OVERSHOOT) * change[index]).clamp(0, 1)
    nearest.offer(index, images[index], nearest.look(images[index]))
    return nearest.result(images)
