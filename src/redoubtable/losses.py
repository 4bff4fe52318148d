"""What an attacker raises: losses of (N, K) logits and (N,) labels, one value per image.

Every loss here grows as the attack succeeds. `aim` turns one into the attacker's objective, and is
the only place where a targeted attack changes a sign.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from redoubtable.registry import Registry
from redoubtable.types import Labels, Logits, Loss

LOSSES: Registry[Loss] = Registry("loss")
Objective = Callable[[Logits, Tensor], Tensor]
"""(M, K) logits and the (M,) indices of their images to (M,) values that the attacker raises."""


def _best_other(logits: Logits, y: Labels, classes: int | None = None) -> Tensor:
    """The largest logit of another class, among the first `classes` columns."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others[:, :classes].amax(1)


def _own(logits: Logits, y: Labels) -> Tensor:
    return logits.gather(1, y[:, None]).squeeze(1)


@LOSSES.register("cross_entropy")
def cross_entropy(logits: Logits, y: Labels) -> Tensor:
    """Cross-entropy, -log softmax(z)_y."""
    return F.cross_entropy(logits, y, reduction="none")


@LOSSES.register("margin")
def margin(logits: Logits, y: Labels) -> Tensor:
    """Margin max_{i != y} z_i - z_y: positive exactly where the image is misclassified."""
    return _best_other(logits, y) - _own(logits, y)


@LOSSES.register("dlr")
def dlr(logits: Logits, y: Labels) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, eq. 6), margin / (z_1 - z_3).

    It ignores the scale of the logits. With two classes there is no third logit and the gap of the
    two takes its place.
    """
    ranked = logits.topk(min(3, logits.shape[1]), dim=1).values
    return margin(logits, y) / (ranked[:, 0] - ranked[:, -1] + 1e-12)


@LOSSES.register("carlini_wagner")
def carlini_wagner(logits: Logits, y: Labels) -> Tensor:
    """Margin that stops growing at 0, min(margin, 0) (Carlini & Wagner 2017, f_6 with kappa 0).

    An image that is already misclassified has no gradient left: use it where every image counts
    once, as in a mean over random draws, and `margin` where confidence helps.
    """
    return margin(logits, y).clamp_max(0)


@LOSSES.register("evasion_margin")
def evasion_margin(logits: Logits, y: Labels) -> Tensor:
    """Margin against a model that may abstain: max_{i != y, i < K} z_i - max(z_y, z_K).

    Takes (N, K + 1) logits with the rejection last; positive exactly where the image is accepted
    and misclassified, so the detector is in the loss.
    """
    reject = logits.shape[1] - 1
    return _best_other(logits, y, reject) - torch.maximum(_own(logits, y), logits[:, reject])


@LOSSES.register("evasion_confidence")
def evasion_confidence(logits: Logits, y: Labels) -> Tensor:
    """Log-probability of the likeliest wrong class, rejection left out: max_{i != y} log p_i.

    Takes (N, K + 1) logits with the rejection last. A confident wrong answer is what a detector of
    doubt accepts; the loss goes on growing after the class has changed.
    """
    return _best_other(logits[:, :-1].log_softmax(1), y)


def _target_confidence(logits: Logits, targets: Labels) -> Tensor:
    return -_own(logits[:, :-1].log_softmax(1), targets)


_TARGETED: dict[Loss, Loss] = {
    # To be taken for the target, an image must beat the rejection like any other class.
    evasion_margin: margin,
    evasion_confidence: _target_confidence,
}


def aim(loss: Loss, y: Labels, targets: Labels | None) -> Objective:
    """Return what the attacker raises: `loss` of the true labels, or minus `loss` of the targets.

    Args:
        loss: a loss of this module or one of the same form.
        y: (N,) true labels.
        targets: (N,) classes to be taken for, or None to be taken for any wrong one.

    Returns:
        A function of (M, K) logits and the (M,) indices of their images.
    """
    if targets is None:
        return lambda logits, index: loss(logits, y[index])
    wanted, form = targets, _TARGETED.get(loss, loss)
    return lambda logits, index: -form(logits, wanted[index])
