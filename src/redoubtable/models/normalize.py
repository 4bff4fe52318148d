"""The normalisation that a network carries inside, so that everything outside speaks [0, 1]."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from redoubtable.types import Images


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, per channel or for all channels.

    The defaults map [0, 1] to [-1, 1], so that grey 0.5 becomes 0: to a network it is then the
    absence of a signal, which is what a dropped pixel stands for (spec 000, section 1.1).

    Args:
        mean: one number for all channels, or one per channel, in units of [0, 1].
        std: likewise; positive.

    Raises:
        ValueError: `std` is not positive, or the two are not numbers for as many channels.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self, mean: float | Sequence[float] = 0.5, std: float | Sequence[float] = 0.5
    ) -> None:
        super().__init__()
        means, stds = _per_channel("mean", mean), _per_channel("std", std)
        if not bool((stds > 0).all()):
            raise ValueError(f"`std` must be positive, got {std}")
        if 1 != means.numel() != stds.numel() != 1:
            raise ValueError(
                f"`mean` and `std` must name as many channels, got {means.numel()} and "
                f"{stds.numel()}"
            )
        # Buffers: they move with the model and are saved with it, but are not trained. They are
        # checked on the CPU, since on the meta device they have no values.
        self.register_buffer("mean", means.to(torch.get_default_device()))
        self.register_buffer("std", stds.to(torch.get_default_device()))

    def forward(self, x: Images) -> Tensor:
        """Return the normalised images, in the shape of `x`."""
        return (x - self.mean) / self.std

    def extra_repr(self) -> str:
        """Say the numbers in the printed model."""
        return f"mean={self.mean.flatten().tolist()}, std={self.std.flatten().tolist()}"


def _per_channel(name: str, value: float | Sequence[float]) -> Tensor:
    try:
        return torch.as_tensor(value, dtype=torch.float32, device="cpu").reshape(1, -1, 1, 1)
    except (TypeError, ValueError, RuntimeError):
        raise ValueError(
            f"`{name}` must be a number, or one number per channel, got {value!r}"
        ) from None
