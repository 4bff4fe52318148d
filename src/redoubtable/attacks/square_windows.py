"""What Square attack proposes under each norm: stripes and squares, tiles and pairs of windows."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from redoubtable.attacks.random_search import other_signs, random_signs
from redoubtable.threat import L2, Linf, ThreatModel
from redoubtable.threat.base import column
from redoubtable.types import Images

Place = tuple[Tensor, Tensor, Tensor, Tensor]
"""Indices of one square window per image: `x[place]` is (N, C, side, side)."""


@dataclass(frozen=True)
class Moves:
    """The proposals of one norm.

    Attributes:
        start: of clean images and the threat, the first candidates.
        change: of the strongest images, the clean ones, the threat and the side of a window, new
            candidates.
        least: the smallest side.
    """

    start: Callable[[Images, ThreatModel], Images]
    change: Callable[[Images, Images, ThreatModel, int], Images]
    least: int


def windows(x: Images, side: int) -> Place:
    """Return a random window in each image.

    The authors' code never draws the last row and column; here all places are equally likely.
    """
    n, channels, height, width = x.shape
    device = x.device
    top = torch.randint(0, height - side + 1, (n, 1, 1, 1), device=device)
    left = torch.randint(0, width - side + 1, (n, 1, 1, 1), device=device)
    along = torch.arange(side, device=device)
    return (
        torch.arange(n, device=device).view(-1, 1, 1, 1),
        torch.arange(channels, device=device).view(1, -1, 1, 1),
        top + along.view(1, 1, -1, 1),
        left + along.view(1, 1, 1, -1),
    )


def _radius(x: Images, threat: ThreatModel) -> Tensor | float:
    return column(threat.radius(x).clamp_max(threat.diameter(x)), x)


# -- Linf: section 3.3 ----------------------------------------------------------------------------


def _stripes(x: Images, threat: ThreatModel) -> Images:
    """Vertical stripes of one pixel, each channel at one end of its range."""
    n, channels, _, width = x.shape
    return (x + _radius(x, threat) * random_signs(n, channels, 1, width, like=x)).clamp(0, 1)


def _recolour(kept: Images, x: Images, threat: ThreatModel, side: int) -> Images:
    """Set a window to one corner of the ball, another one than it has."""
    place = windows(x, side)
    clean, radius = x[place], _radius(x, threat)
    signs = random_signs(*x.shape[:2], 1, 1, like=x)
    colour = (clean + radius * signs).clamp(0, 1)
    same = (colour - kept[place]).abs().flatten(1).amax(1) < 1e-7
    signs = other_signs(signs, same.view(-1, 1, 1, 1))
    new = kept.clone()
    new[place] = (clean + radius * signs).clamp(0, 1)
    return new


# -- L2: section 3.4 ------------------------------------------------------------------------------


def _length(delta: Tensor) -> Tensor:
    """(N, C, 1, 1) Euclidean length of each channel."""
    return delta.square().sum((2, 3), keepdim=True).sqrt()


def _pyramid(height: int, width: int, like: Tensor) -> Tensor:
    """Equation 2: a value falls off from the centre, as the sum of ever larger rectangles."""
    middle = height // 2
    rows = torch.arange(height, device=like.device).view(-1, 1) - height // 2
    columns = torch.arange(width, device=like.device).view(1, -1) - width // 2
    ring = torch.maximum(rows.abs(), columns.abs())
    layers = max(middle, width // 2) + 1
    values = torch.arange(1, layers + 1, device=like.device, dtype=like.dtype).square().reciprocal()
    # A point in ring r lies in the rectangles r, r + 1, ...
    return values.flip(0).cumsum(0).flip(0)[ring]


def _shape(side: int, like: Tensor) -> Tensor:
    """(side, side) of unit length: a positive and a negative half, upright or lying."""
    if side == 1:
        return like.new_ones(1, 1)
    half = side // 2
    upper = _pyramid(half, side, like)
    lower = _pyramid(side - half, side, like)
    length = torch.linalg.vector_norm
    halves = torch.cat([upper / length(upper), -lower / length(lower)])
    # Both halves are of unit length.
    return halves / math.sqrt(2)


def _shapes(n: int, side: int, like: Tensor) -> Tensor:
    """(n, 1, side, side): one shape per image, turned with probability one half."""
    shape = _shape(side, like)
    turned = torch.rand(n, 1, 1, 1, device=like.device) < 0.5
    return torch.where(turned, shape.T, shape)


def _tiles(x: Images, threat: ThreatModel) -> Images:
    """A grid of shapes, about five to a side, with random signs per channel."""
    n, channels, height, width = x.shape
    side = max(min(height, width) // 5, 1)
    down, across = height // side, width // side
    signs = random_signs(n, channels, down, across, like=x)
    signs = signs.repeat_interleave(side, 2).repeat_interleave(side, 3)
    delta = torch.zeros_like(x)
    top, left = (height - down * side) // 2, (width - across * side) // 2
    shapes = _shapes(n, side, x).repeat(1, 1, down, across)
    delta[:, :, top : top + down * side, left : left + across * side] = shapes * signs
    return _scaled(delta, x, threat)


def _move_mass(kept: Images, x: Images, threat: ThreatModel, side: int) -> Images:
    """Empty one window and put its mass, and what is left of the budget, into another."""
    delta = kept - x
    place, emptied = windows(x, side), windows(x, side)
    radius = _radius(x, threat)
    unused = (radius**2 - delta.square().sum((1, 2, 3), keepdim=True)).clamp_min(0)
    here = delta[place]
    rest = delta.clone()
    rest[place] = 0
    rest[emptied] = 0
    # What both windows hold together, channel by channel.
    mass = _length(delta).square() - _length(rest).square()
    signs = random_signs(*x.shape[:2], 1, 1, like=x)
    fresh = _shapes(len(x), side, x) * signs + here / _length(here).clamp_min(1e-12)
    amount = (mass.clamp_min(0) + unused / x.shape[1]).sqrt()
    rest[place] = fresh / _length(fresh).clamp_min(1e-12) * amount
    return _scaled(rest, x, threat)


def _scaled(delta: Tensor, x: Images, threat: ThreatModel) -> Images:
    """A change of the whole radius, cut by the box."""
    length = delta.square().sum((1, 2, 3), keepdim=True).sqrt()
    return (x + delta / length.clamp_min(1e-12) * _radius(x, threat)).clamp(0, 1)


MOVES: dict[type[ThreatModel], Moves] = {
    Linf: Moves(_stripes, _recolour, least=1),
    L2: Moves(_tiles, _move_mass, least=3),
}
