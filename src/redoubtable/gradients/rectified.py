"""Convolution, sum and rectifier in one call, where no gradient follows."""

from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

Pair = tuple[int, int]


class Rectified(nn.Module):
    """`relu(conv(x))`, or `relu(conv(x) + other)`.

    On a processor and without gradients all of it is one call of oneDNN, which reads and writes the
    features once instead of two or three times. Elsewhere it is the calls that it stands for, each
    in the memory of the one before.

    Args:
        conv: a convolution that nothing else reads; it is kept, not copied.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.conv = conv
        self.plain = not isinstance(conv.padding, str) and conv.padding_mode == "zeros"

    def forward(self, x: Tensor, other: Any = None) -> Tensor:
        """Return the rectified features; `other` is added first, if it is given."""
        if self.plain and self._may(x) and not _gradient_follows(x, other, self.conv.weight):
            if other is None:
                return self._call("default", [x], ["relu", [], ""])
            if isinstance(other, Tensor) and other.dtype == x.dtype and self._fits(x, other):
                return self._call("binary", [x, other], ["add", 1.0, "relu", [], ""])
        out: Tensor = self.conv(x)
        return torch.relu_(out if other is None else add_into(out, other))

    def _may(self, x: Tensor) -> bool:
        # A mode over functions, like that of sampled features, waits for the rectifier's own call.
        watched = torch._C._len_torch_function_stack() > 0
        typed = x.dtype == self.conv.weight.dtype and _joins(x.dtype)
        # Elsewhere in memory the call falls back on others, which bfloat16 does not have.
        in_order = x.ndim == 4 and x.is_contiguous(memory_format=torch.channels_last)
        return x.device.type == "cpu" and typed and in_order and not watched

    def _call(self, kind: str, inputs: list[Tensor], then: list[Any]) -> Tensor:
        conv = self.conv
        shape = [list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups]
        join = getattr(torch.ops.mkldnn._convolution_pointwise, kind)
        out: Tensor = join(*inputs, conv.weight, conv.bias, *shape, *then)
        return out

    def _fits(self, x: Tensor, other: Tensor) -> bool:
        """Whether `other` has the shape of the convolution's output, so that nothing spreads."""
        conv = self.conv
        if other.ndim != 4 or other.shape[:2] != (len(x), conv.out_channels):
            return False
        numbers = (conv.kernel_size, conv.stride, cast(Pair, conv.padding), conv.dilation)
        sides = zip(x.shape[2:], *numbers, strict=True)
        out = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides]
        return list(other.shape[2:]) == out


def add_into(place: Tensor, other: Any) -> Tensor:
    """Return the sum, in the memory of `place` where it has the same shape and type."""
    # Not broadcast_shapes: its checks in Python cost as much as a small convolution.
    same = isinstance(other, Tensor) and other.shape == place.shape
    if same and torch.result_type(place, other) == place.dtype:
        return place.add_(other)
    return place + other  # type: ignore[no-any-return]


def _gradient_follows(*tensors: Any) -> bool:
    return torch.is_grad_enabled() and any(getattr(t, "requires_grad", False) for t in tensors)


@lru_cache
def _joins(dtype: torch.dtype) -> bool:
    """Whether this PyTorch has the joined call, which it does not promise to keep, and it works."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    x = torch.ones(1, 2, 2, 2, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(2, 2, 1, 1, dtype=dtype)
    try:
        call, alike = torch.ops.mkldnn._convolution_pointwise, ([0, 0], [1, 1], [1, 1], 1)
        one = call(x, weight, None, *alike, "relu", [], "")
        two = call.binary(x, x, weight, None, *alike, "add", 1.0, "relu", [], "")
    except (AttributeError, RuntimeError, TypeError):  # or this processor has not the type
        return False
    return bool((one == 2).all() and (two == 3).all())
