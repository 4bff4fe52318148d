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
"""Facts: `success`, positive exactly where the attack succeeded, so that candidates can be ranked
by it; `abstains`, for models with a rejection only."""
BETAS = (0.1, 1.0, 10.0)
"""Weights of a detector's score beside confidence in the losses `evasion_hinge_BETA`."""
SLACK = 0.1
"""How far below its threshold those losses push a score, in its units: draws and rounding move it.
"""
CONFIDENCES = (1.0, 5.0, 20.0)
"""Margins that the losses `carlini_wagner_CONFIDENCE` ask for; at 0 it is `carlini_wagner`."""
Objective = Callable[[Logits, Tensor], Tensor]
"""(M, K) logits and the (M,) indices of their images to (M,) values that the attacker raises."""


def _best_other(logits: Logits, y: Labels, classes: int | None = None) -> Tensor:
    """The largest logit of another class, among the first `classes` columns."""
    others = logits.scatter(1, y[:, None], -torch.inf)
    return others[:, :classes].amax(1)


def _own(logits: Logits, y: Labels) -> Tensor:
    return logits.gather(1, y[:, None]).squeeze(1)


@LOSSES.register("cross_entropy", success=False, abstains=False)
def cross_entropy(logits: Logits, y: Labels) -> Tensor:
    """Cross-entropy, -log softmax(z)_y."""
    return F.cross_entropy(logits, y, reduction="none")


@LOSSES.register("margin", success=True, abstains=False)
def margin(logits: Logits, y: Labels) -> Tensor:
    """Margin max_{i != y} z_i - z_y: positive exactly where the image is misclassified."""
    return _best_other(logits, y) - _own(logits, y)


@LOSSES.register("dlr", success=False, abstains=False)
def dlr(logits: Logits, y: Labels) -> Tensor:
    """Difference of logits ratio (Croce & Hein 2020, eq. 6), margin / (z_1 - z_3).

    It ignores the scale of the logits. Towards a target it is their equation 7,
    (z_t - z_y) / (z_1 - (z_3 + z_4) / 2).

    Raises:
        ValueError: there are fewer than three logits (towards a target, four): the ratio of fewer
            is constant and gives no gradient.
    """
    if logits.shape[1] < 3:
        raise ValueError(f"`loss=dlr` needs three classes, got {logits.shape[1]}; use margin")
    ranked = logits.topk(3, dim=1).values
    return margin(logits, y) / (ranked[:, 0] - ranked[:, -1] + 1e-12)


@LOSSES.register("carlini_wagner", success=False, abstains=False)
def carlini_wagner(logits: Logits, y: Labels) -> Tensor:
    """Margin that stops growing at 0, min(margin, 0) (Carlini & Wagner 2017, f_6 with kappa 0).

    An image that is already misclassified has no gradient left: use it where every image counts
    once, as in a mean over random draws, and `margin` where confidence helps.
    """
    return margin(logits, y).clamp_max(0)


def _confident(confidence: float) -> Loss:
    """Return the loss `carlini_wagner_CONFIDENCE`."""

    def loss(logits: Logits, y: Labels) -> Tensor:
        return margin(logits, y).clamp_max(confidence)

    loss.__doc__ = f"""Margin that stops growing at {confidence:g} (Carlini & Wagner 2017, kappa).

    In a mean over random draws every draw is to be fooled with room to spare, and none counts for
    more than that: so all of a detector's draws agree on the wrong class.
    """
    return loss


_CONFIDENT = {
    LOSSES.register(f"carlini_wagner_{kappa:g}", success=False, abstains=False)(
        _confident(kappa)
    ): kappa
    for kappa in CONFIDENCES
}


def _confident_to_target(confidence: float) -> Callable[[Logits, Labels, Labels], Tensor]:
    return lambda z, y, t: -(margin(z, t) + confidence).clamp_min(0)


@LOSSES.register("evasion_margin", success=True, abstains=True)
def evasion_margin(logits: Logits, y: Labels) -> Tensor:
    """Margin against a model that may abstain: max_{i != y, i < K} z_i - max(z_y, z_K).

    Takes (N, K + 1) logits with the rejection last; positive exactly where the image is accepted
    and misclassified, so the detector is in the loss.
    """
    reject = logits.shape[1] - 1
    return _best_other(logits, y, reject) - torch.maximum(_own(logits, y), logits[:, reject])


@LOSSES.register("evasion_confidence", success=False, abstains=True)
def evasion_confidence(logits: Logits, y: Labels) -> Tensor:
    """Log-probability of the likeliest wrong class, rejection left out: max_{i != y} log p_i.

    Takes (N, K + 1) logits with the rejection last. A confident wrong answer is what a detector of
    doubt accepts; the loss goes on growing after the class has changed.
    """
    return _best_other(logits[:, :-1].log_softmax(1), y)


def _hinged(beta: float) -> Loss:
    """Return the loss `evasion_hinge_BETA`."""

    def loss(logits: Logits, y: Labels) -> Tensor:
        return _best_other(logits[:, :-1].log_softmax(1), y) - beta * _excess(logits)

    loss.__doc__ = f"""Confidence in a wrong class, less {beta:g} x a score's excess.

    max_{{i != y}} log p_i - beta max(0, s - tau + 0.1), of (N, K + 1) logits as `Rejecting` gives
    them, whose last column is the largest log-probability plus the score s less the threshold tau.
    A confident wrong answer is enough where the score is entropy; the excess helps where confidence
    alone does not bring a score down, and is out of play once it is down.
    """
    return loss


def _excess(logits: Logits) -> Tensor:
    """How far a score is above the point a little below its threshold; 0 where it is not."""
    return (logits[:, -1] - logits[:, :-1].amax(1) + SLACK).clamp_min(0)


_HINGED = {
    LOSSES.register(f"evasion_hinge_{beta:g}", success=False, abstains=True)(_hinged(beta)): beta
    for beta in BETAS
}


def _hinged_to_target(beta: float) -> Callable[[Logits, Labels, Labels], Tensor]:
    return lambda z, y, t: _own(z[:, :-1].log_softmax(1), t) - beta * _excess(z)


def _dlr_to_target(logits: Logits, y: Labels, targets: Labels) -> Tensor:
    if logits.shape[1] < 4:
        raise ValueError(
            f"`loss=dlr` needs four classes towards a target, got {logits.shape[1]}; use margin"
        )
    ranked = logits.topk(4, dim=1).values
    return (_own(logits, targets) - _own(logits, y)) / (
        ranked[:, 0] - ranked[:, 2:].mean(1) + 1e-12
    )


_TARGETED: dict[Loss, Callable[[Logits, Labels, Labels], Tensor]] = {
    dlr: _dlr_to_target,
    # Until the target is the answer the shortfall counts, then nothing.
    carlini_wagner: lambda z, y, t: -margin(z, t).clamp_min(0),
    # To be taken for the target, an image must beat the rejection like any other class.
    evasion_margin: lambda z, y, t: -margin(z, t),
    evasion_confidence: lambda z, y, t: _own(z[:, :-1].log_softmax(1), t),
    **{loss: _hinged_to_target(beta) for loss, beta in _HINGED.items()},
    **{loss: _confident_to_target(kappa) for loss, kappa in _CONFIDENT.items()},
}
"""What is raised towards a target, of logits, true labels and targets; where a loss is not here, it
is minus the loss of the target."""


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
    goal = targets
    if loss in _TARGETED:
        form = _TARGETED[loss]
        return lambda logits, index: form(logits, y[index], goal[index])
    return lambda logits, index: -loss(logits, goal[index])


def check_losses(abstains: bool, *, loss: Loss | None = None, success: Loss | None = None) -> None:
    """Refuse registered losses that would disarm an attack in silence; others are the caller's.

    Args:
        abstains: whether the attacked model has a rejection.
        loss: what is raised.
        success: what candidates are ranked by.

    Raises:
        ValueError: `success` is no margin, or a loss needs a rejection that the model lacks.
    """
    for word, one in (("loss", loss), ("success", success)):
        name = None if one is None else LOSSES.name_of(one)
        if name is None:
            continue
        facts = LOSSES[name].facts
        if word == "success" and not facts["success"]:
            raise ValueError(
                f"`success={name}` is not positive just where an attack succeeded; use margin, or "
                "evasion_margin for a model that abstains"
            )
        if facts["abstains"] and not abstains:
            raise ValueError(f"`{word}={name}` is for models that abstain; use margin")
