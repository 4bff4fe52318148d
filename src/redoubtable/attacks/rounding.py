"""Adversarial images as a file can hold them."""

import torch

from redoubtable.types import Images


def round_to_8_bits(x_adv: Images, x: Images) -> Images:
    """Return images whose changed values are among the 256 steps of an 8-bit file.

    A value is rounded to the nearest step; where that would change it by more than `x_adv` does,
    to the next one towards the clean image, and where none lies between the two it stays clean. So
    no change grows and what is legal stays so under every norm.

    Args:
        x_adv: (N, C, H, W) legal images.
        x: (N, C, H, W) the clean images.
    """
    change = x_adv - x
    nearest = (x_adv * 255).round()
    inward = nearest - change.sign()
    # Half a rounding error of forgiveness, so that a bound that is itself a step is kept.
    slack = change.abs() + 1e-6
    fits = ((nearest / 255 - x).abs() <= slack) & _same_side(nearest / 255, change, x)
    fits_inward = ((inward / 255 - x).abs() <= slack) & _same_side(inward / 255, change, x)
    stepped = torch.where(fits_inward, inward / 255, x)
    return torch.where(change == 0, x, torch.where(fits, nearest / 255, stepped)).clamp(0, 1)


def _same_side(value: Images, change: Images, x: Images) -> Images:
    """Where a value lies on the same side of the clean one as the change, or on it."""
    return (value - x) * change >= 0
