"""Doubt by dropout (Feinman, Curtin, Shintre & Gardner 2017, https://arxiv.org/abs/1703.00410)."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from redoubtable.detectors.scores import SCORES, Score
from redoubtable.gradients import answers
from redoubtable.parts import Facts, Part
from redoubtable.types import Images, Logits

_DROPOUTS = frozenset({F.dropout, F.dropout1d, F.dropout2d, F.alpha_dropout})
_ARGUMENTS = ("input", "p", "training", "inplace")


class _Dropping(TorchFunctionMode):
    """Every dropout of a pass drops, whatever the mode of its module; `count` says how many did."""

    count = 0

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch for the network."""
        if func not in _DROPOUTS:
            return func(*args, **(kwargs or {}))
        self.count += 1
        given = dict(zip(_ARGUMENTS, args, strict=False)) | (kwargs or {})
        return func(**{**given, "training": True})


class OwnDropout(Part):
    """A network whose dropout of training stays at work; one call is one draw.

    Batch norms and all else answer as after training, and no module's mode is changed.

    Known against it: many masks attacked at once (Carlini & Wagner 2017, arXiv:1705.07263,
    section 4.1).

    Args:
        network: a classifier with dropout layers.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    facts = Facts(
        stochastic=True, differentiable=True, batch_dependent=False, abstains=False, passes=1
    )

    def forward(self, x: Images) -> Logits:
        """Return (N, K) logits of one draw.

        Raises:
            ValueError: the network has no dropout.
        """
        with _Dropping() as pass_:
            out: Logits = self.network(x)
        if not pass_.count:
            raise ValueError(
                "the network has no dropout of its own; put some after its ReLUs (`dropout`), or "
                "take another score"
            )
        return out

    def undefended(self) -> nn.Module:
        """Return the network as it answers after training."""
        return self.network


@SCORES.register(
    "dropout_variance", paper="Feinman et al. 2017, https://arxiv.org/abs/1703.00410", network=True
)
class DropoutVariance(Score):
    """Mean over the classes of the variance of the softmax over passes with dropout.

    Known against it: images that many masks agree on (Carlini & Wagner 2017, arXiv:1705.07263,
    section 4.1).

    Args:
        network: a classifier with dropout layers of its own.
        draws: passes, 50 in the authors' code.

    Raises:
        ValueError: `draws` is below 2.
    """

    def __init__(self, network: nn.Module, draws: int = 50) -> None:
        super().__init__()
        if draws < 2:
            raise ValueError(f"a variance needs at least 2 `draws`, got {draws}")
        self.dropping = OwnDropout(network)
        self.draws = draws

    @property
    def facts(self) -> Facts:
        """State the passes, of which the network's own answer is one more."""
        return Facts(
            stochastic=True,
            differentiable=True,
            batch_dependent=False,
            abstains=False,
            passes=self.draws,
            once=1,
        )

    def forward(self, x: Images, logits: Logits) -> Tensor:
        """Return the variance; the answer to `x` itself does not count."""
        probabilities = answers(self.dropping, x, self.draws).softmax(2)
        return probabilities.var(0, correction=0).mean(1)

    def extra_repr(self) -> str:
        """Show the number of passes."""
        return f"draws={self.draws}"
