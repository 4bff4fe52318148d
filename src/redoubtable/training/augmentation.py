"""Random shifts and mirror images of a batch, on its 8-bit form, before anything else."""

import torch
import torch.nn.functional as F
from torch import Tensor

from redoubtable.training.settings import Augmentation

_PAD = 4


def augment(images: Tensor, how: Augmentation) -> Tensor:
    """Return a batch with every image shifted and mirrored by its own draw.

    Shifts are those of a random crop of the image padded with 4 black pixels on each side (He et
    al. 2016, section 4.2); an image is mirrored left to right with probability 1/2.

    Args:
        images: (N, C, H, W), uint8, in any memory layout.
        how: see `Settings`.

    Returns:
        Images of the same shape and type, channels last in memory.
    """
    if how == "none":
        return images.contiguous(memory_format=torch.channels_last)
    n, _, height, width = images.shape
    device = images.device
    down = torch.randint(2 * _PAD + 1, (n, 1), device=device)
    right = torch.randint(2 * _PAD + 1, (n, 1), device=device)
    rows = torch.arange(height, device=device) + down
    columns = torch.arange(width, device=device).expand(n, -1)
    if how == "crop+flip":
        mirrored = torch.rand(n, 1, device=device) < 0.5
        columns = torch.where(mirrored, width - 1 - columns, columns)
    columns = columns + right
    padded = F.pad(images, (_PAD, _PAD, _PAD, _PAD)).permute(0, 2, 3, 1)
    each = torch.arange(n, device=device)[:, None, None]
    # One gather for the whole batch; what it gives is channels last already.
    return padded[each, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)
