"""The bookkeeping that iterative attacks share: the strongest image so far, and who is finished."""

import torch
from torch import Tensor, nn

from redoubtable.gradients import exact_model, input_gradient, mean_logits
from redoubtable.losses import aim, check_losses
from redoubtable.parts import facts_of
from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Labels, Logits, Loss

MOST_STEPS = 1_000_000
RIVALS = 3
"""On a random model how many images beside the best one are kept of each example."""
FRESH = 3
"""With how many times the draws they are looked at again in the end."""


class Search:
    """The strongest legal image found for each example, and which examples still need work.

    Strength is the `success` value (a margin: positive once the attack succeeded). An example is
    finished when its attack succeeded, `stop` allows it, and the model answers every image alike:
    on a random or batch-dependent model nothing finishes early, since one lucky draw decides
    nothing and a smaller batch would be another model. A success on a fast copy is confirmed on the
    exact model first.

    On a random model the value of an image is that of some draws, and the largest of many such
    values is a lucky one. So a few images of large value are kept beside the best one, and fresh
    draws choose among them in the end.

    Args:
        model: what is attacked.
        x: (N, C, H, W) clean images; they are the first candidates, of unknown strength.
        y: (N,) true labels.
        targets: (N,) classes to be taken for, or None.
        success: what candidates are ranked by.
        stop: let finished examples leave.
        batch_size: images in one pass.

    Attributes:
        best: (N, C, H, W) the strongest images so far.
        value: (N,) their strength.
        finished: (N,) which examples need no more work.
        stops: whether examples finish at all.
    """

    def __init__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        targets: Labels | None,
        success: Loss,
        stop: bool,
        batch_size: int | None = None,
    ) -> None:
        facts = facts_of(model)
        check_losses(facts.abstains, success=success)
        x = x.detach()
        self.model, self.x, self.y, self.targets = model, x, y, targets
        self.batch_size = batch_size
        self._abstains = facts.abstains
        self.best = x.clone()
        self.value = x.new_full((len(x),), -torch.inf)
        self.finished = torch.zeros(len(x), dtype=torch.bool, device=x.device)
        self._exact = exact_model(model)
        self._confirms = self._exact is not model
        self.stops = stop and not (facts.stochastic or facts.batch_dependent)
        self._rank = aim(success, y, targets)
        self._rivals: list[tuple[Images, Tensor]] = []
        if facts.stochastic:
            self._rivals = [(x.clone(), self.value.clone()) for _ in range(RIVALS)]

    @property
    def open(self) -> Tensor:
        """Indices of the examples that still need work."""
        return (~self.finished).nonzero().squeeze(1)

    def offer(self, index: Tensor, candidates: Images, logits: Logits) -> Tensor:
        """Take candidates into account.

        Args:
            index: (M,) the examples that they are for.
            candidates: (M, C, H, W) legal images.
            logits: (M, K) the model's answers to them.

        Returns:
            (M,) which of the examples are still open.
        """
        value = self._rank(logits, index).to(self.value)
        if self._confirms and self.stops:
            # What the copy takes for a success counts with the value that the exact model gives it.
            claimed = (value > 0).nonzero().squeeze(1)
            if len(claimed):
                true = mean_logits(self._exact, candidates[claimed], batch_size=self.batch_size)
                value = value.index_put((claimed,), self._rank(true, index[claimed]).to(value))
        better = value > self.value[index]
        if self._rivals:
            self._keep_beaten(index, candidates, value, better)
        self.best[index[better]] = candidates[better]
        self.value[index[better]] = value[better]
        if self.stops:
            self.finished[index[better & (value > 0)]] = True
        return ~self.finished[index]

    def _keep_beaten(
        self, index: Tensor, candidates: Images, value: Tensor, better: Tensor
    ) -> None:
        """Let the beaten ones of candidates and best images replace the weakest of the rivals."""
        shape = (-1, *(1,) * (candidates.ndim - 1))
        beaten = torch.where(better.view(shape), self.best[index], candidates)
        its = torch.where(better, self.value[index], value)
        weakest = torch.stack([values[index] for _, values in self._rivals]).argmin(0)
        for slot, (images, values) in enumerate(self._rivals):
            enters = (weakest == slot) & (its > values[index])
            images[index[enters]] = beaten[enters]
            values[index[enters]] = its[enters]

    def strongest(self, eot: int) -> Images:
        """Return what was found: (N, C, H, W), of each example the strongest image.

        On a random model the best images and their rivals are all looked at again first.

        Args:
            eot: random draws that the values so far are means over.
        """
        if not self._rivals:
            return self.best
        everyone = torch.arange(len(self.x), device=self.x.device)
        kept = [(self.best, self.value), *self._rivals]
        values = [
            self._rank(self.look(images, FRESH * eot), everyone).masked_fill(
                ~old.isfinite(), -torch.inf
            )
            for images, old in kept
        ]
        chosen = torch.stack(values).argmax(0)
        return torch.stack([images for images, _ in kept])[chosen, everyone]

    def revalue(self, index: Tensor, logits: Logits) -> None:
        """Give the (M,) examples' strongest images the values of a new look at them, (M, K).

        On a random model the largest of many values is a lucky one, and would never be beaten.
        """
        self.value[index] = self._rank(logits, index).to(self.value)

    def climb(
        self,
        start: Images,
        threat: ThreatModel,
        loss: Loss,
        *,
        steps: int,
        step_size: float | None,
        momentum: float,
        eot: int,
    ) -> Images:
        """Take projected steps of steepest ascent from `start`, for the examples that are open.

        Every iterate is offered, the last one too. With momentum a step follows the running sum of
        the gradients, each scaled to a mean size of one (Dong et al. 2018, arXiv:1710.06081,
        algorithm 1); on a random model that averages over the draws of earlier steps too.

        Returns:
            (N, C, H, W) where each example stood last; finished ones where they succeeded.
        """
        check_losses(self._abstains, loss=loss)
        if step_size is not None and not step_size > 0:
            raise ValueError(f"`step_size` must be positive, got {step_size}")
        if not 0 <= momentum <= 1:
            raise ValueError(f"`momentum` must lie in [0, 1], got {momentum}")
        if not 1 <= steps <= MOST_STEPS:
            raise ValueError(f"`steps` must lie in 1 to {MOST_STEPS:,}, got {steps}")
        size = threat.default_step(steps) if step_size is None else step_size
        objective = aim(loss, self.y, self.targets)
        x_adv, index = start.clone(), self.open
        memory = torch.zeros_like(start) if momentum else None
        for _ in range(steps):
            if len(index) == 0:
                return x_adv
            here, origin = x_adv[index], index
            slope = input_gradient(
                self.model,
                here,
                lambda z, i, origin=origin: objective(z, origin[i]),  # type: ignore[misc]
                eot=eot,
                batch_size=self.batch_size,
            )
            still = self.offer(index, here, slope.logits)
            index, here, gradient = index[still], here[still], slope.gradient[still]
            if memory is not None:
                scale = gradient.abs().mean((1, 2, 3), keepdim=True).clamp_min(1e-12)
                gradient = momentum * memory[index] + gradient / scale
                memory[index] = gradient
            ball, clean = threat.select(index), self.x[index]
            length = size[index.to(size.device)] if isinstance(size, Tensor) else size
            x_adv[index] = ball.project(here + ball.ascent(gradient, here, clean, length), clean)
        if len(index):
            self.offer(index, x_adv[index], self.look(x_adv[index], eot))
        return x_adv

    def look(self, x: Images, eot: int = 1) -> Logits:
        """Return the model's answers, averaged over `eot` draws, without a gradient."""
        return mean_logits(self.model, x, eot=eot, batch_size=self.batch_size)
