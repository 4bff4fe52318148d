"""A running mean of a network's weights."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


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


def statistics_of(model: nn.Module) -> list[_BatchNorm]:
    """Return the batch norms that keep statistics."""
    norms = [m for m in model.modules() if isinstance(m, _BatchNorm)]
    return [m for m in norms if m.track_running_stats]


@contextmanager
def measured_anew(norms: Sequence[_BatchNorm]) -> Iterator[None]:
    """Let batch norms forget their statistics and take the plain mean over the batches of a block.

    Everything around them stays in its mode; they are in evaluation mode afterwards.
    """
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.train()
    try:
        yield
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
            norm.eval()
