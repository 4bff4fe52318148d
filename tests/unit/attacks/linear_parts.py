"""Linear models with random weights, whose boundaries are at known distances."""

import torch
from torch import Tensor

from redoubtable.threat import L1, L2, Linf, ThreatModel
from tests.networks import LinearModel

SHAPE = (3, 4, 5)
KINDS: list[type[ThreatModel]] = [Linf, L2, L1]
ORDER = {Linf: 1, L2: 2, L1: torch.inf}
"""The order of the dual norm."""


def linear(classes: int, n: int = 12, seed: int = 0) -> tuple[LinearModel, Tensor, Tensor]:
    """A model, images in the middle of the box, and what the model answers to them."""
    g = torch.Generator().manual_seed(seed)
    double = {"generator": g, "dtype": torch.float64}
    weight = torch.randn(classes, *SHAPE, **double) * torch.randn(classes, *SHAPE, **double).exp()
    model = LinearModel(weight, -0.5 * weight.flatten(1).sum(1))
    x = 0.5 + 0.03 * torch.randn(n, *SHAPE, **double).clamp(-2, 2)
    with torch.no_grad():
        return model, x, model(x).argmax(1)


def distances(model: LinearModel, x: Tensor, y: Tensor, kind: type[ThreatModel]) -> Tensor:
    """How far each image is from the boundary to each class: (N, K), infinite for its own.

    |z_j - z_y| over the dual norm of w_j - w_y, which holds while the box is far.
    """
    with torch.no_grad():
        logits, weight = model(x), model.weight.flatten(1)
        gap = logits.gather(1, y[:, None]) - logits
        slope = torch.linalg.vector_norm(weight[None] - weight[y][:, None], ORDER[kind], dim=2)
        return (gap / slope).masked_fill(slope == 0, torch.inf)


def answers(model: torch.nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        return model(x).argmax(1)
