"""The bookkeeping of attacks that look for the smallest change: the nearest adversarial image."""

import torch
from torch import Tensor, nn

from redoubtable.gradients import exact_model, mean_logits
from redoubtable.losses import aim, check_losses
from redoubtable.parts import facts_of
from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Labels, Logits, Loss

_FURTHER = (1.0, 1.0001, 1.001, 1.01, 1.1)
"""How much longer a change may be made where the exact model is not yet fooled by it."""


class Nearest:
    """For each example the nearest image in the box that succeeded, within the radius or not.

    An attack may leave the ball on its way; `result` alone is legal. What succeeds on a fast copy
    is held against the exact model at the end: a boundary that rounding has moved is crossed by
    going a little further from the clean image.

    Args:
        model: what is attacked.
        x: (N, C, H, W) clean images.
        y: (N,) true labels.
        targets: (N,) classes to be taken for, or None.
        success: a margin, positive once the attack succeeded.
        threat: what is near, and how far an image may be.
        eot: random draws that an answer is averaged over.
        batch_size: images in one pass.
        confidence: what the margin must exceed.

    Attributes:
        distance: (N,) of the nearest success; infinite where there is none.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        targets: Labels | None,
        success: Loss,
        threat: ThreatModel,
        eot: int = 1,
        batch_size: int | None = None,
        confidence: float = 0.0,
    ) -> None:
        check_losses(facts_of(model).abstains, success=success)
        self.model, self.x, self.threat = model, x.detach(), threat
        self.eot, self.batch_size, self.confidence = eot, batch_size, confidence
        self.best = self.x.clone()
        self.distance = x.new_full((len(x),), torch.inf)
        self._rank = aim(success, y, targets)

    @property
    def found(self) -> Tensor:
        """(N,) which examples have a success."""
        return self.distance.isfinite()

    def look(self, x: Images) -> Logits:
        """Return the model's answers, averaged over the draws, without a gradient."""
        return mean_logits(self.model, x, eot=self.eot, batch_size=self.batch_size)

    def offer(self, index: Tensor, candidates: Images, logits: Logits) -> Tensor:
        """Take images into account.

        Args:
            index: (M,) the examples that they are for.
            candidates: (M, C, H, W) images in the box, at any distance.
            logits: (M, K) the model's answers to them.

        Returns:
            (M,) which of them succeed.
        """
        won = self._rank(logits, index) > self.confidence
        far = self.threat.select(index).distance(self.x[index], candidates)
        nearer = won & (far < self.distance[index])
        self.best[index[nearer]] = candidates[nearer]
        self.distance[index[nearer]] = far[nearer]
        return won

    def result(self, otherwise: Images | None = None) -> Images:
        """Return (N, C, H, W) legal images: the nearest successes.

        Where there is none within the radius it is the nearest success, or else `otherwise`,
        projected.

        Args:
            otherwise: (N, C, H, W) what to show where nothing succeeded; None for the clean image.
        """
        if exact_model(self.model) is not self.model:
            self._confirm()
        missing = self.x if otherwise is None else otherwise
        images = torch.where(self.found.view(-1, 1, 1, 1), self.best, missing)
        # Not `contains`: what it forgives as rounding can be all the way to a near boundary.
        legal = self.threat.distance(self.x, images) <= self.threat.radius(self.x)
        return torch.where(legal.view(-1, 1, 1, 1), images, self.threat.project(images, self.x))

    def _confirm(self) -> None:
        """Go further out where the exact model is not fooled; forget what never fools it."""
        exact, left = exact_model(self.model), self.found.nonzero().squeeze(1)
        for factor in _FURTHER:
            if len(left) == 0:
                return
            clean = self.x[left]
            images = (clean + factor * (self.best[left] - clean)).clamp(0, 1)
            logits = mean_logits(exact, images, eot=self.eot, batch_size=self.batch_size)
            won = self._rank(logits, left) > self.confidence
            self.best[left[won]] = images[won]
            self.distance[left[won]] = self.threat.select(left[won]).distance(
                clean[won], images[won]
            )
            left = left[~won]
        self.distance[left] = torch.inf
