"""The rules by which weights move."""

from collections.abc import Iterable

import torch
from torch import nn

from redoubtable.training.settings import Settings

_RHO = 0.95
_EPS = 1e-8
"""Of Adadelta, as in Keras when its users published. Steps start at its root: with the 1e-6 of
torch the penalty of the CIFAR-10 network of Feinman et al. takes its weights to 0 before it learns
(results/adadelta_epsilon.json)."""


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name, over `parameters`."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.lr, weight_decay=settings.weight_decay)
    if settings.optimizer == "adadelta":
        return torch.optim.Adadelta(
            parameters, settings.lr, rho=_RHO, eps=_EPS, weight_decay=settings.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
