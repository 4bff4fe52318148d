"""Sampling units: random factors on feature maps that keep their mean."""

from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import Tensor, nn

from redoubtable.defenses.mvm import SOLVERS, keep_probabilities, solve

Law = Literal["multinomial", "bernoulli"]
"""How what is kept is drawn: with replacement, as published, or each value by itself with the same
probability, so that its mean and its variance are the same and only the number kept varies more."""
Counts = Literal["image", "layer"]
"""What a share of draws is of: the places of the image (as published: at deeper, smaller maps
nearly all is kept then), or those of the map."""


class Unit(nn.Module, ABC):
    """Keeps random values of feature maps and scales them up, so that the mean is the map itself.

    A unit has no state of its own: `probabilities` says with which it draws on a map, and `factors`
    draws with them.

    Attributes:
        follows_maps: what is drawn with depends on the map.
    """

    follows_maps = True

    @abstractmethod
    def probabilities(self, maps: Tensor, places: int) -> Tensor:
        """Return (N, ...) what is drawn with on (N, C, H, W) maps of images with so many places."""

    @abstractmethod
    def factors(self, probabilities: Tensor, draws: int, shape: torch.Size, places: int) -> Tensor:
        """Return (draws, N, 1 or C, H, W) fresh factors of maps of a shape, each of mean 1.

        Where a value is never drawn, as a map that is 0 everywhere never is, the factor is 0.

        Args:
            probabilities: as `probabilities` gives them.
            draws: repetitions.
            shape: (N, C, H, W) of the maps.
            places: of the image that the maps are of.
        """


class MVM(Unit):
    """Matricized variance minimisation (Sheikholeslami, Jain & Giannakis), section 2.

    A place of a map, all its channels together, is kept when it is drawn at least once in c draws
    with replacement, and divided by the probability of that. The probabilities are those that make
    the expected squared difference to the map the smallest.

    Args:
        share: c as a share of the places, 0.5, 1 or 2 in the paper; c is rounded, and at least 1.
        counts: whose places, "image" as in the paper's settings, or "layer".
        law: "multinomial" as published, or "bernoulli".
        solver: of the probabilities, see `mvm_probabilities`.

    Raises:
        ValueError: `share` is not positive, or `counts`, `law` or `solver` are unknown.
    """

    def __init__(
        self,
        share: float = 0.5,
        counts: Counts = "image",
        law: Law = "multinomial",
        solver: str = "exact",
    ) -> None:
        super().__init__()
        _check_share(share)
        check_choice("counts", counts, ("image", "layer"))
        check_choice("law", law, ("multinomial", "bernoulli"))
        check_choice("solver", solver, tuple(SOLVERS))
        self.share, self.counts, self.law, self.solver = share, counts, law, solver

    def draws_on(self, rows: int, places: int) -> int:
        """Return c for a map of so many rows, of an image with so many places."""
        return max(1, round(self.share * (places if self.counts == "image" else rows)))

    def probabilities(self, maps: Tensor, places: int) -> Tensor:
        """Return (N, HW) the probability of each place in a draw."""
        energies = maps.to(_at_least_float32(maps)).square().sum(1).flatten(1)
        return solve(energies, self.draws_on(energies.shape[1], places), self.solver)

    def factors(self, probabilities: Tensor, draws: int, shape: torch.Size, places: int) -> Tensor:
        """Return (draws, N, 1, H, W) factors."""
        count = self.draws_on(probabilities.shape[1], places)
        kept = _kept(probabilities, count, draws, self.law)
        return kept.view(draws, len(probabilities), 1, *shape[2:])

    def extra_repr(self) -> str:
        """Show the settings."""
        rest = f"law={self.law!r}, solver={self.solver!r}"
        return f"share={self.share}, counts={self.counts!r}, {rest}"


class SAP(Unit):
    """Stochastic activation pruning (Dhillon et al. 2018, https://arxiv.org/abs/1803.01442).

    A value is kept when it is drawn at least once in r draws with replacement, in proportion to its
    magnitude, and divided by the probability of that.

    Args:
        share: r as a share of the values of a map; 0.5, 0.8 and 1 are compared with MVM.
        law: "multinomial" as published, or "bernoulli".

    Raises:
        ValueError: `share` is not positive, or `law` is unknown.
    """

    def __init__(self, share: float = 1.0, law: Law = "multinomial") -> None:
        super().__init__()
        _check_share(share)
        check_choice("law", law, ("multinomial", "bernoulli"))
        self.share, self.law = share, law

    def probabilities(self, maps: Tensor, places: int) -> Tensor:
        """Return (N, CHW) the probability of each value in a draw; 0 on a map that is 0."""
        sizes = maps.to(_at_least_float32(maps)).abs().flatten(1)
        return sizes / sizes.sum(1, keepdim=True).clamp_min(torch.finfo(sizes.dtype).tiny)

    def factors(self, probabilities: Tensor, draws: int, shape: torch.Size, places: int) -> Tensor:
        """Return (draws, N, C, H, W) factors."""
        count = max(1, round(self.share * probabilities.shape[1]))
        return _kept(probabilities, count, draws, self.law).view(draws, *shape)

    def extra_repr(self) -> str:
        """Show the settings."""
        return f"share={self.share}, law={self.law!r}"


class Dropout(Unit):
    """Dropout of single values after training, the rest scaled up (Srivastava et al. 2014).

    Args:
        rate: share of the values that are dropped, in [0, 1).

    Raises:
        ValueError: `rate` is not in [0, 1).
    """

    follows_maps = False

    def __init__(self, rate: float = 0.5) -> None:
        super().__init__()
        if not 0 <= rate < 1:
            raise ValueError(f"`rate` must lie in [0, 1), got {rate}")
        self.rate = rate

    def probabilities(self, maps: Tensor, places: int) -> Tensor:
        """Return (N, 1) the probability of being kept, the same for every value."""
        return maps.new_full((len(maps), 1), 1 - self.rate)

    def factors(self, probabilities: Tensor, draws: int, shape: torch.Size, places: int) -> Tensor:
        """Return (draws, N, C, H, W) factors."""
        keep = probabilities.view(-1, 1, 1, 1)
        noise = torch.rand(draws, *shape, device=keep.device)
        return (noise < keep) / keep

    def extra_repr(self) -> str:
        """Show the rate."""
        return f"rate={self.rate}"


def _kept(p: Tensor, count: int, draws: int, law: Law) -> Tensor:
    """(draws, N, n) factors 1/pi of what `count` draws with (N, n) probabilities keep, else 0."""
    pi = keep_probabilities(p, count)
    # What is never drawn has no factor, not an infinite one.
    factors = torch.where(p > 0, pi.clamp_min(torch.finfo(pi.dtype).tiny).reciprocal(), 0.0)
    if law == "bernoulli":
        kept = torch.rand(draws, *p.shape, dtype=p.dtype, device=p.device) < pi
    else:
        kept = drawn(p.detach(), count, draws)
    return kept * factors


def drawn(p: Tensor, count: int, draws: int) -> Tensor:
    """Return (draws, N, n) which of n values are drawn at least once in `count` draws.

    Uniform numbers are made in order, as the gaps between them are exponential numbers over their
    sum; a value is drawn where one of them lies in its interval. That is one search for each value
    and no sort. Each row takes a fixed count of random numbers, so an image's draws don't depend on
    what stands beside it.

    Args:
        p: (N, n) probabilities; rows without any draw nothing.
        count: draws with replacement.
        draws: repetitions.
    """
    n, width = p.shape
    ends = torch.where(p.sum(1, keepdim=True) > 0, p, 1.0).cumsum(1)
    ends = (ends / ends[:, -1:]).expand(draws, n, width).reshape(-1, width).contiguous()
    # By hand, as `exponential_` takes longer on a processor; `rand` is never 1.
    gaps = torch.rand(len(ends), count + 1, dtype=p.dtype, device=p.device)
    sums = gaps.neg_().log1p_().neg_().cumsum(1)
    below = torch.searchsorted(sums[:, :-1] / sums[:, -1:], ends, right=True)
    kept = below > 0
    torch.gt(below[:, 1:], below[:, :-1], out=kept[:, 1:])
    return kept.view(draws, n, width)


def _at_least_float32(maps: Tensor) -> torch.dtype:
    return torch.promote_types(maps.dtype, torch.float32)


def _check_share(share: float) -> None:
    if not (share > 0 and share < float("inf")):
        raise ValueError(f"`share` of the draws must be positive and finite, got {share}")


def check_choice(name: str, value: str, known: tuple[str, ...]) -> None:
    """Check that a setting is one of those that are known.

    Raises:
        ValueError: it is not.
    """
    if value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)}, got {value!r}")
