"""Convolution, sum and rectifier in one call, where no gradient follows."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

Call = Callable[..., Tensor]


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
        # Asked of the module each time they would cost as much as a small convolution.
        self.sizes = [list(conv.padding), list(conv.stride), list(conv.dilation), conv.groups]
        self._out: dict[torch.Size, tuple[int, ...]] = {}
        self._packed: tuple[Any, Tensor] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_packed": None}  # which cannot be copied, only made anew

    def forward(self, x: Tensor, other: Any = None) -> Tensor:
        """Return the rectified features; `other` is added first, if it is given."""
        conv = self.conv
        calls = _calls(x, other, conv.weight) if self.plain else None
        if calls is not None:
            alone, with_sum, pack = calls
            if other is None:
                weight = self._weight(x, pack)
                return alone(x, weight, conv.bias, *self.sizes, "relu", [], "")
            if isinstance(other, Tensor) and other.dtype == x.dtype and self._fits(x, other):
                add: tuple[Any, ...] = ("add", 1.0, "relu", [], "")
                return with_sum(x, other, self._weight(x, pack), conv.bias, *self.sizes, *add)
        out: Tensor = conv(x)
        return torch.relu_(out if other is None else add_into(out, other))

    def _weight(self, x: Tensor, pack: Call) -> Tensor:
        """The weight in oneDNN's own order, which it would otherwise bring it into in every pass.

        The order may differ from shape to shape; only the last one is kept.
        """
        weight = self.conv.weight
        key = (x.shape, weight.data_ptr(), weight._version)
        if self._packed is None or self._packed[0] != key:
            self._packed = key, pack(weight, *self.sizes, x.shape)
        return self._packed[1]

    def _fits(self, x: Tensor, other: Tensor) -> bool:
        """Whether `other` has the shape of the convolution's output, so that nothing spreads."""
        if x.shape not in self._out:
            conv = self.conv
            padding = cast(tuple[int, int], conv.padding)
            sides = zip(
                x.shape[2:], conv.kernel_size, conv.stride, padding, conv.dilation, strict=True
            )
            out = ((n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in sides)
            self._out[x.shape] = (len(x), conv.out_channels, *out)
        return other.shape == self._out[x.shape]


def add_into(place: Tensor, other: Any) -> Tensor:
    """Return the sum, in the memory of `place` where it has the same shape and type."""
    # Not broadcast_shapes: its checks in Python cost as much as a small convolution.
    same = isinstance(other, Tensor) and other.shape == place.shape
    if same and torch.result_type(place, other) == place.dtype:
        return place.add_(other)
    return place + other  # type: ignore[no-any-return]


def _calls(x: Tensor, other: Any, weight: Tensor) -> tuple[Call, Call, Call] | None:
    """Those of `joined_calls`, if they may be made of these images."""
    if torch.is_grad_enabled() and any(
        getattr(t, "requires_grad", False) for t in (x, other, weight)
    ):
        return None
    # A mode over functions, like that of sampled features, waits for the rectifier's own call.
    if not x.is_cpu or x.dtype != weight.dtype or torch._C._len_torch_function_stack():
        return None
    # Elsewhere in memory the calls fall back on others, which bfloat16 does not have.
    if x.ndim != 4 or not x.is_contiguous(memory_format=torch.channels_last):
        return None
    return joined_calls(x.dtype)


@lru_cache
def joined_calls(dtype: torch.dtype) -> tuple[Call, Call, Call] | None:
    """Return oneDNN's calls, which PyTorch does not promise to keep, if they work for a type.

    Alone, with a sum, and what brings a weight into the order of both.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return None
    x = torch.ones(1, 2, 2, 2, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.ones(2, 2, 1, 1, dtype=dtype)
    try:
        calls = torch.ops.mkldnn._convolution_pointwise
        pack = torch.ops.mkldnn._reorder_convolution_weight.default
        alone, with_sum, alike = calls.default, calls.binary, ([0, 0], [1, 1], [1, 1], 1)
        packed = pack(weight, *alike, x.shape)
        one = alone(x, packed, None, *alike, "relu", [], "")
        two = with_sum(x, x, packed, None, *alike, "add", 1.0, "relu", [], "")
    except (AttributeError, RuntimeError, TypeError):  # or this processor has not the type
        return None
    return (alone, with_sum, pack) if bool((one == 2).all() and (two == 3).all()) else None
