"""A running mean of a network's weights."""

import copy

import torch
from torch import nn


class Average:
    """The exponential mean of a network's weights and statistics over the steps of its training.

    Polyak & Juditsky 1992 with a decay; it warms up, so that the first weights, which are random,
    don't stay in it for long.

    Attributes:
        model: a copy of the network with the mean, in evaluation mode.

    Args:
        model: whose weights move.
        decay: share of the mean that a step leaves, in [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Take the weights after a step into account; steps are counted from 0."""
        decay = min(self._decay, (1 + step) / (10 + step))
        now = model.state_dict()
        for name, mean in self.model.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(now[name], 1 - decay)
            else:
                mean.copy_(now[name])
