"""Reaching into a network's pass: what its ReLUs give, and many draws of what comes after.

Nothing is registered in the network and none of its modules is replaced: while a pass runs, the
calls of torch that it makes are watched. So functions are reached as well as modules, and a network
that a fast copy has rewritten as well as the one that was trained.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_RELUS = frozenset({F.relu, F.relu_, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_})

Visit = Callable[[int, Tensor], Tensor]
"""Of the number of a ReLU in a pass and the (N, C, H, W) maps that it gave, what goes on instead.
"""


class AtFeatureMaps(TorchFunctionMode):
    """While it is active, every ReLU that gives feature maps shows them to a visitor.

    A visitor that returns more maps than it was shown makes the pass wider from there on: what was
    computed from the image before is repeated where it meets them, so the part of a network before
    the first random unit runs once for all draws.

    Args:
        visit: what is done with the maps; see `Visit`.
        x: (N, C, H, W) what the network is shown.
        draws: how many times as many maps a visitor may return, all draws of the first image set,
            one set after the other.

    Attributes:
        count: ReLUs seen so far that gave feature maps, not those after flattening.
    """

    def __init__(self, visit: Visit, x: Tensor, draws: int = 1) -> None:
        super().__init__()
        self.visit = visit
        self.count = 0
        self.draws = draws
        self.full = draws * len(x)
        self.narrow: dict[int, Tensor] = {id(x): x} if draws > 1 else {}
        self.wide = False

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Call a function of torch for the network."""
        kwargs = kwargs or {}
        narrow = False
        if self.narrow:
            given = list(_tensors((args, kwargs)))
            narrow = any(id(t) in self.narrow for t in given)
            if narrow and self.wide and any(self._is_wide(t) for t in given):
                args, kwargs = self._widened((args, kwargs))
                narrow = False
        out = func(*args, **kwargs)
        if func in _RELUS and out.ndim == 4:
            shown = len(out)
            out = self.visit(self.count, out)
            self.count += 1
            if len(out) != shown:
                self.wide, narrow = True, False
        if narrow:
            self.narrow.update((id(t), t) for t in _tensors(out))
        return out

    def _is_wide(self, tensor: Tensor) -> bool:
        if id(tensor) in self.narrow or isinstance(tensor, nn.Parameter):
            return False
        return tensor.ndim > 0 and len(tensor) == self.full

    def _widened(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return torch.cat([value] * self.draws) if id(value) in self.narrow else value
        if isinstance(value, tuple | list):
            return type(value)(self._widened(v) for v in value)
        if isinstance(value, dict):
            return {k: self._widened(v) for k, v in value.items()}
        return value


def _tensors(value: Any) -> Sequence[Tensor]:
    """All tensors in nested arguments."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, tuple | list):
        return [t for v in value for t in _tensors(v)]
    if isinstance(value, dict):
        return [t for v in value.values() for t in _tensors(v)]
    return []


def feature_maps(network: nn.Module, x: Tensor) -> list[Tensor]:
    """Return the (N, C, H, W) maps that the ReLUs of a network give, in the order of a pass."""
    found: list[Tensor] = []

    def keep(number: int, maps: Tensor) -> Tensor:
        found.append(maps)
        return maps

    with AtFeatureMaps(keep, x):
        network(x)
    return found
