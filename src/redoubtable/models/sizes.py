"""Image sizes that a network is built for, and the check that images have them."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from redoubtable.models.catalogue import check_sizes


def sides(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of images given by one side, or by both.

    Raises:
        ValueError: it is neither, or a side is below 1.
    """
    both: tuple[Any, ...] = (size, size) if isinstance(size, int) else ()
    if isinstance(size, Sequence) and not isinstance(size, str):
        both = tuple(size)
    if len(both) != 2:
        raise ValueError(
            f"`size` must be one side of a square image or (height, width), got {size!r}"
        )
    # Numbers of a list that was read from text are floats.
    height, width = (int(s) if isinstance(s, float) and s.is_integer() else s for s in both)
    check_sizes(size=height)
    check_sizes(size=width)
    return height, width


def check_images(x: Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Return `x` if it holds images of this shape, (C, H, W).

    A module that calls it must say `fx.wrap("check_images")`: traced into, it would ask for shapes
    that are not known yet.

    Raises:
        ValueError: it does not.
    """
    if x.ndim != 4 or tuple(x.shape[1:]) != shape:
        channels, height, width = shape
        raise ValueError(
            f"the network was built for images of shape {shape}, got a batch of shape "
            f"{tuple(x.shape)}; build it with channels and size of these images (now "
            f"channels={channels}, size=({height}, {width})), or resize them"
        )
    return x
