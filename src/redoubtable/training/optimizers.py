"""The rules by which weights move."""

from collections.abc import Iterable

import torch
from torch import nn

from redoubtable.training.settings import Settings

_RHO = 0.95


def make_optimizer(parameters: Iterable[nn.Parameter], settings: Settings) -> torch.optim.Optimizer:
    """Return the optimizer that the settings name, over `parameters`."""
    if settings.optimizer == "adam":
        return torch.optim.Adam(parameters, settings.lr, weight_decay=settings.weight_decay)
    if settings.optimizer == "adadelta":
        return torch.optim.Adadelta(
            parameters, settings.lr, rho=_RHO, weight_decay=settings.weight_decay
        )
    return torch.optim.SGD(
        parameters,
        settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
