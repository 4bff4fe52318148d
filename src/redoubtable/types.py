"""The tensors and callables every part speaks in: shapes and ranges, said once and checked once.

Images are float tensors of shape (N, C, H, W) in [0, 1]; labels are int64 tensors of shape (N,);
logits are float tensors of shape (N, K), or (N, K + 1) for a model that may abstain, whose last
column then is the rejection.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

Images = Tensor
"""(N, C, H, W), floating point, finite, in [0, 1]."""


class LazyImages(Protocol):
    """Images that are read when they are asked for, so that a set may be larger than memory.

    A tensor is one. What a view gives is float32 in [0, 1], and the same each time.
    """

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, C, H, W)."""

    def __len__(self) -> int:
        """Return N."""

    def __getitem__(self, which: slice | Tensor, /) -> Images:
        """Read the images of a slice or of (n,) indices: (n, C, H, W)."""


Labels = Tensor
"""(N,), int64, in [0, classes)."""
Logits = Tensor
"""(N, K), floating point; (N, K + 1) with the rejection last for an abstaining model."""
Classifier = torch.nn.Module
"""Any module that maps Images to Logits, with its normalisation inside."""
Loss = Callable[[Logits, Labels], Tensor]
"""(N, K) logits and (N,) labels to (N,) values; what an attacker raises."""


def check_images(x: Tensor, name: str = "x") -> None:
    """Refuse what is not a batch of images.

    Raises:
        TypeError: `x` is no float32 or float64 tensor.
        ValueError: `x` is not (N, C, H, W), is empty, has NaN or infinite values, or leaves [0, 1].
    """
    if not isinstance(x, Tensor) or x.dtype not in (torch.float32, torch.float64):
        kind = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"`{name}` must be a float32 or float64 tensor in [0, 1], got {kind}; "
            "divide 8-bit images by 255, and convert others with x.float()"
        )
    _check_shape(tuple(x.shape), name)
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        raise ValueError(f"`{name}` has NaN or infinite values in {bad} of {len(x)} images")
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > 1:
        raise ValueError(
            f"`{name}` must lie in [0, 1], got [{low:.4g}, {high:.4g}]; "
            "pass raw images and put the normalisation inside the model"
        )


def check_lazy(x: Any, name: str = "x") -> None:
    """Refuse what is neither a tensor of images nor a view of some; values are not looked at.

    Raises:
        TypeError: `x` lacks a shape, a length or slices.
        ValueError: its shape is not (N, C, H, W), is empty, or differs from its length.
    """
    if not all(hasattr(x, needed) for needed in ("shape", "__len__", "__getitem__")):
        raise TypeError(
            f"`{name}` must be a float tensor, or a view of images with `shape`, a length and "
            f"slices, got {type(x).__name__}; stack single images with torch.stack"
        )
    _check_shape(tuple(x.shape), name)
    if len(x) != x.shape[0]:
        raise ValueError(f"`{name}` has {len(x)} images, but its shape says {tuple(x.shape)}")


def _check_shape(shape: tuple[int, ...], name: str) -> None:
    if len(shape) != 4 or shape[0] == 0:
        raise ValueError(
            f"`{name}` must be a non-empty (N, C, H, W) batch, got shape {shape}; "
            "add the missing axis with x[None]"
        )


def check_labels(y: Tensor, n: int, classes: int | None = None, name: str = "y") -> None:
    """Refuse labels that are not one class index per image.

    Raises:
        TypeError: `y` is no int64 tensor.
        ValueError: `y` is not (n,), or has a label outside [0, classes).
    """
    if not isinstance(y, Tensor) or y.dtype != torch.int64:
        kind = y.dtype if isinstance(y, Tensor) else type(y).__name__
        raise TypeError(f"`{name}` must be an int64 tensor of class indices, got {kind}")
    if y.shape != (n,):
        raise ValueError(f"`{name}` must have shape ({n},), one per image, got {tuple(y.shape)}")
    if n and int(y.min()) < 0:
        raise ValueError(f"`{name}` must not be negative, got {int(y.min())}")
    if classes is not None and n and int(y.max()) >= classes:
        raise ValueError(
            f"`{name}` has the label {int(y.max())}, but the model has {classes} classes "
            f"(0 to {classes - 1}); use the model trained for this data"
        )
