"""Random masks over images: which values are kept, drawn for each image anew."""

from typing import Literal

import torch
from torch import Tensor

from redoubtable.types import Images

Granularity = Literal["element", "pixel"]
"""What is kept or dropped by itself: each channel of each pixel, or each pixel as a whole."""
GREY = 0.5
"""What a dropped value becomes: the 0 of the [-1, 1] scale."""


def random_mask(
    x: Images,
    rate: float | Tensor | None = None,
    granularity: Granularity = "element",
    keep: int | None = None,
) -> Tensor:
    """Return which values of each image are kept, of one of two laws.

    With `rate` each is kept with probability 1 - rate by itself (Hosseini et al. 2019,
    arXiv:1905.00180, section 2), with `keep` exactly that many are, each set of them equally often
    (Levine & Feizi 2020, arXiv:1911.09272, section 3). Every call draws anew.

    Args:
        x: (N, C, H, W); only its shape, precision and device matter.
        rate: drop rate in [0, 1]; a float, or (N,) with one per image.
        granularity: "element" draws for every channel of every pixel, "pixel" once for all channels
            of a pixel.
        keep: how many values ("element") or pixels ("pixel") of each image are kept.

    Returns:
        (N, C, H, W) booleans, or (N, 1, H, W) for "pixel".

    Raises:
        ValueError: not exactly one of `rate` and `keep` is given, or it is out of its range.
    """
    check_law(rate, granularity, keep)
    shape = x.shape if granularity == "element" else x[:, :1].shape
    if keep is not None:
        return _exactly(keep, shape, x.device)
    assert rate is not None
    if isinstance(rate, Tensor):
        if rate.shape != (len(x),) or not bool(((rate >= 0) & (rate <= 1)).all()):
            raise ValueError(f"`rate` must be ({len(x)},) and in [0, 1], got {rate}")
        rate = rate.to(x).view(-1, 1, 1, 1)
    # A half-precision draw has so few values that its law would be another.
    dtype = torch.promote_types(x.dtype, torch.float32)
    return torch.rand(shape, dtype=dtype, device=x.device) >= rate


def _exactly(keep: int, shape: torch.Size, device: torch.device) -> Tensor:
    """Masks with `keep` ones each: the places of the largest of as many random numbers."""
    places = shape[1:].numel()
    if keep > places:
        raise ValueError(f"`keep` must be at most the {places} places of an image, got {keep}")
    # The shorter list is found, whichever it is. Of doubles no two are equal, so none is favoured.
    most = keep <= places // 2
    draws = torch.rand(shape[0], places, dtype=torch.float64, device=device)
    chosen = draws.topk(keep if most else places - keep, sorted=False).indices
    mask = torch.full_like(draws, not most, dtype=torch.bool)
    return mask.scatter_(1, chosen, most).view(shape)


def check_law(
    rate: float | Tensor | None, granularity: Granularity = "element", keep: int | None = None
) -> None:
    """Refuse what is no law of masks; rates of single images are checked where images are.

    Raises:
        ValueError: as for `random_mask`.
    """
    if granularity not in ("element", "pixel"):
        raise ValueError(f"`granularity` must be 'element' or 'pixel', got {granularity!r}")
    if (rate is None) == (keep is None):
        given = f"both, rate={rate} and keep={keep}" if keep is not None else "neither"
        raise ValueError(
            f"give `rate`, the share that is dropped, or `keep`, the number that is kept; got "
            f"{given}"
        )
    if keep is not None and (isinstance(keep, bool) or not isinstance(keep, int) or keep < 0):
        raise ValueError(f"`keep` must be a whole number of 0 or more, got {keep!r}")
    if rate is not None and not isinstance(rate, Tensor):
        check_rate(rate)


def check_rate(rate: float) -> None:
    """Refuse a drop rate outside [0, 1]."""
    if not 0 <= rate <= 1:
        raise ValueError(f"`rate` is the share of dropped pixels, in [0, 1]; got {rate}")
