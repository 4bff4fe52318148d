"""Votes over the passes of a random model."""

from typing import Literal

import torch
from torch import Tensor, nn

from redoubtable.defenses.registry import DEFENSES
from redoubtable.gradients import answers, bpda
from redoubtable.parts import Facts, Part, facts_of
from redoubtable.types import Images, Logits


@DEFENSES.register("vote", form="wrapper", paper="Hosseini et al. 2019, section 3.2")
class Vote(Part):
    """Several passes of a random model, joined into one answer.

    With `count="probabilities"` the answer is the logarithm of the mean softmax (Hosseini et al.
    2019 take ten masks); with `count="labels"` it is the logarithm of the share of votes of each
    class. How the draws are made is `gradients.answers`.

    Known against it: a vote removes noise, not the attack. An attacker differentiates the mean
    probability itself, draws included; hard votes have no derivative, and the surrogate is the mean
    probability, fair because the share of votes is the same mean after rounding each term.

    Args:
        model: a random classifier.
        draws: passes per image, at least 1.
        count: what is averaged.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        draws: int = 10,
        count: Literal["probabilities", "labels"] = "probabilities",
    ) -> None:
        super().__init__()
        if draws < 1:
            raise ValueError(f"`draws` must be at least 1, got {draws}")
        if count not in ("probabilities", "labels"):
            raise ValueError(f"`count` must be 'probabilities' or 'labels', got {count!r}")
        self.model = model
        self.draws = draws
        self.count = count

    @property
    def facts(self) -> Facts:
        """State `draws` passes; the mean stays random unless the model is not."""
        return Facts(
            stochastic=facts_of(self.model).stochastic,
            differentiable=self.count == "probabilities",
            batch_dependent=False,
            abstains=False,
            passes=self.draws,
        )

    def forward(self, x: Images) -> Logits:
        """Return (N, K) log-probabilities or log-shares of the joined answer."""
        out = answers(self.model, x, self.draws)
        if self.count == "probabilities":
            return _log_mean(out)
        return bpda(_log_shares, _log_mean)(out)

    def undefended(self) -> nn.Module:
        """Return the model that votes."""
        return self.model

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"draws={self.draws}, count={self.count!r}"


def _log_mean(out: Tensor) -> Tensor:
    """(draws, N, K) logits to (N, K) logarithms of the mean probability."""
    draws = out.new_tensor(float(len(out)))
    return out.log_softmax(2).logsumexp(0) - draws.log()


def _log_shares(out: Tensor) -> Tensor:
    """(draws, N, K) logits to (N, K) logarithms of the share of votes, one vote spread evenly."""
    votes = torch.zeros_like(out).scatter_(2, out.argmax(2, keepdim=True), 1.0).sum(0)
    classes = out.shape[2]
    return ((votes + 1 / classes) / (len(out) + 1)).log()
