"""Images that were made against other networks."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from redoubtable.attacks.registry import ATTACKS
from redoubtable.attacks.search import Search
from redoubtable.losses import cross_entropy, margin
from redoubtable.threat import L0, L1, L2, L0Values, Linf, ThreatModel
from redoubtable.types import Images, Labels, Logits, Loss


@ATTACKS.register("transfer", threats=(Linf, L2, L1, L0, L0Values), access="transfer")
def transfer(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    surrogates: Sequence[nn.Module] = (),
    steps: int = 10,
    step_size: float | None = None,
    momentum: float = 1.0,
    loss: Loss = cross_entropy,
    eot: int = 1,
    batch_size: int | None = None,
) -> Images:
    """Momentum steps on the mean logits of surrogates (Dong et al. 2018, arXiv:1710.06081, 3.3).

    The attacked model is never asked. All steps are taken from the clean image, however soon the
    surrogates are fooled, and the image of largest margin on them is given: what is wrong on them
    by far is more often wrong elsewhere.

    Args:
        model: what is attacked; it is not looked at.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: any norm.
        targets: (N,) classes to be taken for; None to leave the true class.
        surrogates: networks for the same images and classes, without a rejection. As text, folders
            of saved models: `transfer:surrogates=zoo/a;zoo/b`.
        steps: number of steps (the authors' 10).
        step_size: length of a step in the units of eps; None for 2.5 eps / steps (theirs: eps /
            steps).
        momentum: weight of the running sum of gradients, in [0, 1] (theirs: 1).
        loss: what is raised.
        eot: random draws of the surrogates that each gradient is averaged over.
        batch_size: images in one pass.

    Returns:
        (N, C, H, W) legal images.

    Raises:
        ValueError: there is no surrogate.
    """
    if not surrogates:
        raise ValueError(
            "`surrogates` is empty; name saved models, as in transfer:surrogates=zoo/a;zoo/b"
        )
    together = surrogates[0] if len(surrogates) == 1 else _Mean(surrogates)
    search = Search(together, x, y, targets, margin, False, batch_size)
    search.climb(
        search.x, threat, loss, steps=steps, step_size=step_size, momentum=momentum, eot=eot
    )
    return search.strongest(eot)


class _Mean(nn.Module):
    """The mean logits of networks, each as it is."""

    def __init__(self, networks: Sequence[nn.Module]) -> None:
        super().__init__()
        self.networks = nn.ModuleList(networks)

    def forward(self, x: Tensor) -> Logits:
        return torch.stack([network(x) for network in self.networks]).mean(0)
