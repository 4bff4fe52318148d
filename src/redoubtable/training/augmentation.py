"""Random shifts and mirror images of a batch, on its 8-bit form, before anything else."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from redoubtable.training.settings import Augmentation

_PAD = 4


@dataclass(frozen=True)
class Moves:
    """Where each of N images goes.

    Attributes:
        shift: (N, 2), rows and columns of a window in the padded image, each in [0, 8]; or None.
        mirrored: (N,), whether left and right are exchanged; or None.
    """

    shift: Tensor | None
    mirrored: Tensor | None

    def __getitem__(self, which: slice) -> "Moves":
        """Return the moves of some of the images."""
        shift = None if self.shift is None else self.shift[which]
        return Moves(shift, None if self.mirrored is None else self.mirrored[which])


def draw_moves(n: int, how: Augmentation) -> Moves:
    """Draw moves for `n` images from torch's global generator, on the processor.

    Drawn apart from the images, they can be the same whichever process moves which image.
    """
    shift = torch.randint(2 * _PAD + 1, (n, 2)) if "crop" in how else None
    return Moves(shift, torch.rand(n) < 0.5 if "flip" in how else None)


def augment(images: Tensor, moves: Moves) -> Tensor:
    """Return a batch with every image shifted and mirrored by its own moves.

    Shifts are those of a random crop of the image padded with 4 black pixels on each side (He et
    al. 2016, section 4.2); an image is mirrored left to right with probability 1/2.

    Args:
        images: (N, C, H, W), uint8, in any memory layout.
        moves: of these images.

    Returns:
        Images of the same shape and type, channels last in memory.
    """
    if moves.shift is None and moves.mirrored is None:
        return images.contiguous(memory_format=torch.channels_last)
    n, _, height, width = images.shape
    device = images.device
    rows = torch.arange(height, device=device).expand(n, -1)
    columns = torch.arange(width, device=device).expand(n, -1)
    if moves.mirrored is not None:
        mirrored = moves.mirrored.to(device, non_blocking=True)[:, None]
        columns = torch.where(mirrored, width - 1 - columns, columns)
    if moves.shift is not None:
        images = F.pad(images, (_PAD, _PAD, _PAD, _PAD))
        shift = moves.shift.to(device, non_blocking=True)
        rows, columns = rows + shift[:, :1], columns + shift[:, 1:]
    each = torch.arange(n, device=device)[:, None, None]
    # One gather for the whole batch; what it gives is channels last already.
    moved = images.permute(0, 2, 3, 1)[each, rows[:, :, None], columns[:, None, :]]
    return moved.permute(0, 3, 1, 2)
