"""Scores of suspicion: higher means more suspicious."""

from abc import abstractmethod

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


@SCORES.register("entropy", paper="Hosseini et al. 2019, section 3.2")
class Entropy(Score):
    """Entropy of the predicted distribution, -sum p log p in nats (0 to log K).

    Around a vote it is the entropy of the mean probability.

    Known against it: it only sees doubt. An attack that asks for a confident wrong class
    (Carlini & Wagner 2017, arXiv:1705.07263) lowers the entropy together with the true class.
    """

    facts = Facts(
        stochastic=False, differentiable=True, batch_dependent=False, abstains=False, passes=1
    )

    def forward(self, x: Images, logits: Logits) -> Tensor:
        """Return the entropy of softmax(logits)."""
        log_p = logits.log_softmax(1)
        return -(log_p.exp() * log_p).sum(1)
