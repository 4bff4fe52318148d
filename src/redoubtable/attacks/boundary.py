"""The nearest decision boundary of a model that is linearised where an image stands."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redoubtable.gradients import Slope, images_per_pass, input_gradient
from redoubtable.losses import Objective
from redoubtable.threat import ThreatModel
from redoubtable.types import Images


def nearest_boundary(
    model: nn.Module,
    x: Images,
    leads: Sequence[Objective],
    threat: ThreatModel,
    *,
    eot: int = 1,
    batch_size: int | None = None,
) -> Slope:
    """Linearise several leads and return, for each image, the one whose zero is nearest.

    How far the hyperplane lead + <gradient, step> = 0 is away is said by the dual norm. One pass
    forward serves all leads, and one pass backward each; their gradients are held for one piece of
    the batch at a time.

    Args:
        model: maps images to logits.
        x: (N, C, H, W) images.
        leads: of (M, K) logits and the (M,) indices of their images; each is 0 on a boundary.
        threat: gives the dual norm.
        eot: random draws that everything is averaged over, before the nearest is chosen.
        batch_size: images in one pass.

    Returns:
        The gradient, the value (as `loss`) and the logits of the nearest lead.
    """
    if len(leads) == 1:
        return input_gradient(model, x, leads[0], eot=eot, batch_size=batch_size)
    most = images_per_pass(model, x, eot, batch_size)
    index = torch.arange(len(x), device=x.device)
    pieces = [
        _choose(_mean_of_draws(model, x[part], leads, part, eot, most), threat)
        for part in torch.split(index, most)
    ]
    return Slope(
        torch.cat([p.gradient for p in pieces]),
        torch.cat([p.loss for p in pieces]),
        torch.cat([p.logits for p in pieces]),
    )


@dataclass
class _Fan:
    """Values (M, J) and gradients (M, J, C, H, W) of all leads, and the logits (M, K)."""

    values: Tensor
    gradients: Tensor
    logits: Tensor


def _mean_of_draws(
    model: nn.Module, x: Images, leads: Sequence[Objective], index: Tensor, eot: int, most: int
) -> _Fan:
    """The means over the draws, of which as many go through at once as fit."""
    total: _Fan | None = None
    at_once = max(1, most // len(x))
    for done in range(0, eot, at_once):
        fan = _look(model, x, leads, index, min(at_once, eot - done))
        if total is None:
            total = fan
        else:
            total.values += fan.values
            total.gradients += fan.gradients
            total.logits += fan.logits
    assert total is not None
    return _Fan(total.values / eot, total.gradients / eot, total.logits / eot)


def _look(
    model: nn.Module, x: Images, leads: Sequence[Objective], index: Tensor, draws: int
) -> _Fan:
    """The sums over some draws, in one pass forward and one backward for each lead."""
    n, j = len(x), len(leads)
    images = x.detach().repeat(draws, 1, 1, 1).requires_grad_()
    origin = index.repeat(draws)
    gradients, values = x.new_empty(n, j, *x.shape[1:]), x.new_empty(n, j)
    with torch.enable_grad():
        out = model(images)
        for k, lead in enumerate(leads):
            value = lead(out, origin)
            (slope,) = torch.autograd.grad(value.sum(), images, retain_graph=k + 1 < j)
            gradients[:, k] = slope.view(draws, *x.shape).sum(0)
            values[:, k] = value.detach().view(draws, n).sum(0).to(x.dtype)
    return _Fan(values, gradients, out.detach().view(draws, n, -1).sum(0))


def _choose(fan: _Fan, threat: ThreatModel) -> Slope:
    """Of each image the lead whose hyperplane is nearest."""
    n, j = fan.values.shape
    steepest = threat.dual(fan.gradients.flatten(0, 1)).view(n, j)
    tiny = torch.finfo(steepest.dtype).tiny
    chosen = (fan.values.abs() / steepest.clamp_min(tiny)).argmin(1)
    rows = torch.arange(n, device=chosen.device)
    return Slope(fan.gradients[rows, chosen], fan.values[rows, chosen], fan.logits)
