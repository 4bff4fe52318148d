"""Scores of suspicion: higher means more suspicious."""

from abc import abstractmethod

import torch
from torch import Tensor, nn

from redoubtable.parts import Facts, Part
from redoubtable.registry import Registry
from redoubtable.types import Images, Logits


class Score(Part):
    """A number per image that says how suspicious it is; higher is more suspicious.

    A subclass states its facts and defines `forward(x, logits) -> (N,)`. It owns whatever networks
    it needs. A score is reached only through `Rejecting`, which leaves with it.
    """

    @abstractmethod
    def forward(self, x: Images, logits: Logits) -> Tensor:
        """Return (N,) scores of the images `x` that the model answered with `logits`."""

    def undefended(self) -> nn.Module:
        """Return the identity; a score answers nothing by itself."""
        return nn.Identity()

    def objectives(self) -> tuple[str, ...]:
        """Return attack arguments that put this score into the loss, see `Part.objectives`."""
        return ()


SCORES: Registry[type[Score]] = Registry("score")


@SCORES.register("entropy", paper="Hosseini et al. 2019, section 3.2", network=False)
class Entropy(Score):
    """Entropy of the predicted distribution, -sum p log p in nats (0 to log K).

    Around a vote it is the entropy of the mean probability. Around a vote of labels, told their
    number, it is that of the histogram of labels (Sheikholeslami et al., Algorithm 3), without the
    one vote that `Vote` spreads over the classes.

    Known against it: it only sees doubt. An attack that asks for a confident wrong class
    (Carlini & Wagner 2017, arXiv:1705.07263) lowers the entropy together with the true class.

    Args:
        votes: of a vote of labels, how many there are; None for any other distribution.

    Raises:
        ValueError: `votes` is below 1.
    """

    def __init__(self, votes: int | None = None) -> None:
        super().__init__()
        if votes is not None and votes < 1:
            raise ValueError(f"`votes` must be at least 1, got {votes}")
        self.votes = votes

    facts = Facts(
        stochastic=False, differentiable=True, batch_dependent=False, abstains=False, passes=1
    )

    def forward(self, x: Images, logits: Logits) -> Tensor:
        """Return the entropy of softmax(logits)."""
        log_p = logits.log_softmax(1)
        if self.votes is None:
            return -(log_p.exp() * log_p).sum(1)
        spread = 1 / logits.shape[1]
        share = (log_p.exp() * (self.votes + 1) - spread) / self.votes
        share = share.clamp_min(_NO_VOTE)
        return -(share * share.log()).sum(1)

    def extra_repr(self) -> str:
        """Show the number of votes, where it matters."""
        return "" if self.votes is None else f"votes={self.votes}"


_NO_VOTE = 1e-12
"""A share of no vote: it adds nothing to an entropy, and has a logarithm."""


def histogram_entropy(labels: Tensor, classes: int) -> Tensor:
    """Return (N,) entropies in nats of the histograms of (N, R) hard labels.

    Algorithm 3 of Sheikholeslami et al.: 0 where all labels agree, at most log K.

    Raises:
        ValueError: there are no labels, or one is no class.
    """
    if labels.ndim != 2 or not labels.shape[1]:
        raise ValueError(f"`labels` must be (N, R) with R at least 1, got {tuple(labels.shape)}")
    if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"`labels` must be classes below {classes}")
    counts = torch.zeros(len(labels), classes, dtype=torch.float64, device=labels.device)
    counts.scatter_add_(1, labels.long(), torch.ones_like(labels, dtype=torch.float64))
    entropy: Tensor = torch.special.entr(counts / labels.shape[1]).sum(1)
    return entropy
