"""A classifier that may abstain."""

from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor, nn

from redoubtable.detectors.scores import Score
from redoubtable.detectors.thresholds import Threshold, by_accuracy_loss, by_false_positives
from redoubtable.parts import Facts, Part, facts_of, in_eval_mode
from redoubtable.types import (
    Images,
    Labels,
    LazyImages,
    Logits,
    check_images,
    check_labels,
    check_lazy,
)

MOST_PASSES = 10
"""Of a single model over the held-out images, for the accuracy that a rejection is held to."""


class Rejecting(Part):
    """A model with K + 1 outputs, the last of them "rejected".

    The first K outputs are the model's log-probabilities; the last is the largest of them plus the
    score minus the threshold. So the last is the largest exactly when the score is above the
    threshold, and the score stays differentiable: an attack sees the detector in the loss.

    Known against it: whatever is known against the score. The objectives it contributes ask for an
    image that is accepted and wrong.

    Args:
        model: a classifier with K outputs.
        score: suspicion of an image, higher is more.
        threshold: frozen; a float is taken as given.
    """

    def __init__(self, model: nn.Module, score: Score, threshold: Threshold | float) -> None:
        super().__init__()
        if not isinstance(threshold, Threshold):
            threshold = Threshold(float(threshold), "given", 0.0, 0.0, 0)
        self.model = model
        self.score = score
        self.threshold = threshold

    facts = Facts(
        stochastic=False, differentiable=True, batch_dependent=False, abstains=True, passes=1
    )

    def forward(self, x: Images) -> Logits:
        """Return (N, K + 1) outputs, the rejection last."""
        log_p = self.model(x).log_softmax(1)
        excess = self.score(x, log_p) - self.threshold.value
        # Rounding must not turn an accepted image into a tie or a rejected one into an accepted.
        nudge = torch.where(excess > 0, 1e-5, -1e-5).to(excess)
        reject = log_p.amax(1) + excess + nudge
        return torch.cat([log_p, reject[:, None]], 1)

    def scores(self, x: Images, batch_size: int) -> Tensor:
        """Return (N,) scores, exactly those that `forward` compares with the threshold."""
        with torch.no_grad():
            parts = torch.split(x, batch_size)
            return torch.cat([self.score(p, self.model(p).log_softmax(1)) for p in parts])

    def undefended(self) -> nn.Module:
        """Return the model that never abstains."""
        return self.model

    def at(self, threshold: Threshold) -> "Rejecting":
        """Return the same guard at another threshold; the networks are shared."""
        return Rejecting(self.model, self.score, threshold)

    def objectives(self) -> tuple[str, ...]:
        """Ask for an accepted wrong answer: by the margin, and by confidence in a wrong class."""
        return (
            "loss=evasion_margin,success=evasion_margin",
            "loss=evasion_confidence,success=evasion_margin",
            *self.score.objectives(),
        )

    def extra_repr(self) -> str:
        """Show the threshold, to the last digit."""
        return f"threshold={self.threshold.value!r}"


def calibrate(
    model: nn.Module,
    score: Score,
    x: LazyImages,
    y: Labels,
    *,
    rule: Literal["accuracy", "fpr"] = "accuracy",
    level: float = 0.01,
    single: nn.Module | None = None,
    batch_size: int = 256,
) -> Rejecting:
    """Return `model` with a rejection whose threshold is fitted on clean held-out images.

    Random models are calibrated on one answer per image, under the random state at the call, and
    all in eval mode, in which they answer; modules are in the mode they were in afterwards.

    Args:
        model: a classifier with K outputs.
        score: suspicion of an image.
        x: (N, C, H, W) clean images that neither training nor the test uses; a tensor, or a view
            that reads them, of which one batch at a time is in memory.
        y: (N,) their labels.
        rule: "accuracy" allows `level` less accuracy than `single` has; "fpr" rejects at most
            `level` of the clean images (Hosseini et al. 2019 say both).
        level: the allowed loss or rate.
        single: the model without the vote, as the reference of "accuracy", where it is random with
            the mean accuracy of as many passes as the vote has, ten at most; None for `model`
            itself.
        batch_size: images per pass.

    Raises:
        TypeError: images or labels have the wrong type.
        ValueError: images are illegal or not one per label, `rule` is another, or `level` is not in
            [0, 1).
    """
    check_lazy(x)
    check_labels(y, len(x))
    if rule not in ("accuracy", "fpr") or batch_size < 1:
        raise ValueError(
            f"`rule` must be accuracy or fpr and `batch_size` at least 1, got {rule!r} and "
            f"{batch_size}"
        )
    scores, correct = _measure(model, score, x, y, batch_size)
    if rule == "fpr":
        return Rejecting(model, score, by_false_positives(scores, level))
    if single is None or single is model:
        reference = correct  # the same answers: other ones would demand the luck of their draws
    else:
        # One pass is more random than a vote, so its share takes as many as the vote has.
        passes = min(MOST_PASSES, facts_of(model).passes) if facts_of(single).stochastic else 1
        each = [right for _ in range(passes) for *_, right in _answers(single, x, y, batch_size)]
        reference = torch.cat(each)
    share = reference.double().mean().item()
    return Rejecting(model, score, by_accuracy_loss(scores, correct, share, level))


def _measure(
    model: nn.Module, score: Score, x: LazyImages, y: Labels, batch_size: int
) -> tuple[Tensor, Tensor]:
    """(N,) scores, and (N,) whether the answers are right, of clean images."""
    scores, correct = [], []
    with in_eval_mode(score), torch.no_grad():
        for images, logits, right in _answers(model, x, y, batch_size):
            scores.append(score(images, logits.log_softmax(1)).cpu())
            correct.append(right)
    return torch.cat(scores), torch.cat(correct)


def _answers(
    model: nn.Module, x: LazyImages, y: Labels, batch_size: int
) -> Iterator[tuple[Images, Logits, Tensor]]:
    """Images where the model is, its answers, and whether they are right, batch by batch."""
    for start in range(0, len(x), batch_size):
        images, labels = _batch(x, start, batch_size), y[start : start + batch_size]
        there = images.to(next((p.device for p in model.parameters()), images.device))
        with in_eval_mode(model), torch.no_grad():
            logits = model(there)
        yield there, logits, logits.argmax(1).cpu() == labels.cpu()


def _batch(x: LazyImages, start: int, length: int) -> Images:
    """Some images, looked at as they come: a view may give anything."""
    end = min(start + length, len(x))
    images, where, expected = x[start:end], f"x[{start}:{end}]", (end - start, *x.shape[1:])
    check_images(images, where)
    if images.shape != expected:
        got = tuple(images.shape)
        raise ValueError(f"`{where}` must be {expected}, as `x.shape` says, got {got}")
    return images.detach().contiguous()
