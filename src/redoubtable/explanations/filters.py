"""First-layer filters, and how much of them lies at their centre (Hosseini et al. 2019, fig. 4)."""

import torch
from torch import Tensor, nn


def first_layer_filters(model: nn.Module) -> Tensor:
    """Return the weights of the first convolution, (F, C, h, w), on the CPU.

    The first is the one whose module was registered first, which in all networks of this package is
    the one that sees the image.

    Raises:
        ValueError: the model has no two-dimensional convolution.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            return module.weight.detach().cpu().clone()
    raise ValueError(
        f"the model ({type(model).__name__}) has no convolution (torch.nn.Conv2d), so there are no "
        "first-layer filters to look at; its maps can still be made"
    )


def centre_shares(filters: Tensor) -> Tensor:
    """Return of each filter |w_centre|^2 / |w|^2, (F,) in [0, 1]; NaN for a filter of zeros.

    The centre is the middle tap over all channels; along an even side, which has no middle, it is
    the two middle rows or columns. So the share of a filter with equal weights is that of
    `even_share`, and 1x1 and 2x2 filters are all centre: they always have 1, which says nothing.

    Args:
        filters: (F, C, h, w).

    Raises:
        ValueError: `filters` are not (F, C, h, w), or there are none.
    """
    _check(filters)
    squares = filters.double().square()
    rows, columns = (_middle(side) for side in filters.shape[2:])
    return squares[:, :, rows, columns].sum((1, 2, 3)) / squares.sum((1, 2, 3))


def peak_shares(filters: Tensor) -> Tensor:
    """Return of each filter the share of its strongest tap, wherever it is; (F,) in (0, 1].

    A filter that looks at one pixel beside the centre, which is the same with the image moved by a
    pixel, has a low centre share and a high one here. At least 1/9 for 3x3; NaN for zeros.

    Args:
        filters: (F, C, h, w).

    Raises:
        ValueError: `filters` are not (F, C, h, w), or there are none.
    """
    _check(filters)
    taps = filters.double().square().sum(1).flatten(1)
    return taps.amax(1) / taps.sum(1)


def even_share(filters: Tensor) -> float:
    """Return the centre's share of a filter whose weights are all equal: 1/9 for 3x3."""
    _check(filters)
    taps = torch.zeros(filters.shape[2:], dtype=torch.float64)
    taps[_middle(filters.shape[2]), _middle(filters.shape[3])] = 1
    return taps.mean().item()


def concentration(filters: Tensor) -> float:
    """Return the mean of `centre_shares` over the filters that are not all zero.

    It is higher for networks trained on subsampled images, says the paper: neighbours that are
    mostly dropped are of little use. It has no interval, as it is of all filters that there are.

    Args:
        filters: (F, C, h, w).

    Raises:
        ValueError: `filters` are not (F, C, h, w), there are none, or all are zero.
    """
    shares = centre_shares(filters)
    if bool(shares.isnan().all()):
        raise ValueError("`filters` must have a weight that is not 0; the network is not trained")
    return shares.nanmean().item()


def _middle(side: int) -> slice:
    return slice((side - 1) // 2, side // 2 + 1)


def _check(filters: Tensor) -> None:
    if filters.ndim != 4 or not filters.numel():
        raise ValueError(
            f"`filters` must be (filters, channels, height, width), got {tuple(filters.shape)}"
        )
