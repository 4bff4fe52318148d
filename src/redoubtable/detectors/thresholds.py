"""Thresholds, fitted on clean held-out images only and then frozen."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

Rule = Literal["accuracy", "fpr"]


@dataclass(frozen=True)
class Threshold:
    """A frozen threshold; an image is rejected when its score is above it.

    Attributes:
        value: the threshold.
        rule: "fpr" or "accuracy", how it was chosen, or "given".
        level: the false positive rate or the loss of accuracy that was allowed.
        rejected: share of the held-out clean images that it rejects.
        n: how many held-out images there were.
    """

    value: float
    rule: str
    level: float
    rejected: float
    n: int

    def __post_init__(self) -> None:
        """Refuse a threshold that rejects by accident."""
        if not math.isfinite(self.value):
            raise ValueError(f"a threshold must not be NaN or infinite, got {self.value}")


def _check(scores: Tensor, level: float) -> None:
    if scores.ndim != 1 or len(scores) == 0 or not bool(torch.isfinite(scores).all()):
        raise ValueError(f"`scores` must be finite and (N,), got shape {tuple(scores.shape)}")
    if not 0 <= level < 1:
        raise ValueError(f"the allowed rate must lie in [0, 1), got {level}")


def by_false_positives(scores: Tensor, rate: float = 0.01) -> Threshold:
    """Return the smallest threshold that rejects at most `rate` of the clean images.

    Args:
        scores: (N,) of clean held-out images.
        rate: allowed share of rejected ones.

    Raises:
        ValueError: scores are not finite or `rate` is not in [0, 1).
    """
    _check(scores, rate)
    ranked = scores.sort(descending=True).values
    value = ranked[math.floor(rate * len(scores) + 1e-9)].item()
    rejected = (scores > value).double().mean().item()
    return Threshold(value, "fpr", rate, rejected, len(scores))


def by_accuracy_loss(
    scores: Tensor, correct: Tensor, reference: float, loss: float = 0.01
) -> Threshold:
    """Return the smallest threshold that keeps P(correct and accepted) >= reference - loss.

    This is the reading of "1% lower accuracy" in Hosseini et al. 2019, section 3.2: the reference
    is the accuracy of a single pass, so what a vote gains is spent on more rejections.

    Args:
        scores: (N,) of clean held-out images.
        correct: (N,) whether each is classified correctly, rejection aside.
        reference: accuracy to compare with, in [0, 1].
        loss: how much of it may be lost.

    Returns:
        The threshold; if even without rejections the accuracy is below the demand, one that
        rejects nothing here, and if nothing is demanded, the smallest score.

    Raises:
        ValueError: scores are not finite, lengths differ, or `loss` is not in [0, 1).
    """
    _check(scores, loss)
    if correct.shape != scores.shape:
        raise ValueError(f"`correct` must be {tuple(scores.shape)}, got {tuple(correct.shape)}")
    needed = math.ceil((reference - loss) * len(scores) - 1e-9)
    kept = scores[correct.bool()].sort().values
    if needed > len(kept):
        value = scores.max().item()
    elif needed <= 0:
        value = scores.min().item()
    else:
        value = kept[needed - 1].item()
    rejected = (scores > value).double().mean().item()
    return Threshold(value, "accuracy", loss, rejected, len(scores))
