"""A task on which an attack that forgets its targets is found out."""

import torch
from torch import Tensor

from tests.networks import LinearModel


def behind() -> tuple[LinearModel, Tensor, Tensor, Tensor]:
    """Two images of class 0 at (0.5, 0.5) with targets 1 and 2.

    Along the second value class 1 begins at 0.6 and class 2, behind it, at 0.7. Nearer than both
    is class 3, at 0.55 of the first value.
    """
    weight = torch.tensor([[0.0, 0.0], [0.0, 9.0], [0.0, 27.0], [9.0, 0.0]]).view(4, 1, 1, 2)
    model = LinearModel(weight, torch.tensor([0.0, -5.4, -18.0, -4.95]))
    x, y = torch.full((2, 1, 1, 2), 0.5), torch.zeros(2, dtype=torch.long)
    return model, x, y, torch.tensor([1, 2])
