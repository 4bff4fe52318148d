"""The tensors and callables every part speaks in: shapes and ranges, said once and checked once.

Images are float tensors of shape (N, C, H, W) in [0, 1]; labels are int64 tensors of shape (N,);
logits are float tensors of shape (N, K), or (N, K + 1) for a model that may abstain, whose last
column then is the rejection.
"""

from collections.abc import Callable

import torch
from torch import Tensor

Images = Tensor
"""(N, C, H, W), floating point, finite, in [0, 1]."""
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
    if x.ndim != 4 or x.shape[0] == 0:
        raise ValueError(
            f"`{name}` must be a non-empty (N, C, H, W) batch, got shape {tuple(x.shape)}; "
            "add the missing axis with x[None]"
        )
    if not torch.isfinite(x).all():
        bad = int((~torch.isfinite(x)).flatten(1).any(1).sum())
        raise ValueError(f"`{name}` has NaN or infinite values in {bad} of {len(x)} images")
    low, high = x.min().item(), x.max().item()
    if low < 0 or high > 1:
        raise ValueError(
            f"`{name}` must lie in [0, 1], got [{low:.4g}, {high:.4g}]; "
            "pass raw images and put the normalisation inside the model"
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
