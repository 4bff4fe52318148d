"""Randomised smoothing (Cohen, Rosenfeld & Kolter 2019, arXiv:1902.02918)."""

from collections.abc import Sequence

import scipy
import torch

from redoubtable.certification.registry import CERTIFICATES
from redoubtable.types import Images


@CERTIFICATES.register("smoothing", norm="L2", paper="Cohen et al. 2019")
class Smoothing:
    """Randomised smoothing with Gaussian noise (Cohen et al. 2019, arXiv:1902.02918, section 3).

    The network should be trained under the same noise; one that is not mostly abstains.

    Args:
        noise: standard deviation in units of [0, 1], above 0.
    """

    def __init__(self, noise: float = 0.25) -> None:
        if not 0 < noise < float("inf"):
            raise ValueError(f"`noise` must be a standard deviation above 0, got {noise}")
        self.noise = noise

    def sample(self, x: Images) -> Images:
        """Return noisy copies. They leave [0, 1]: clipping would be another smoothed classifier."""
        return x + self.noise * torch.randn_like(x)

    def radius(self, lower: float, upper: float, shape: Sequence[int]) -> float:
        """Return noise / 2 * (Phi^-1(lower) - Phi^-1(upper)), which is theorem 1.

        Args:
            lower: bound of the probability of the class.
            upper: bound of the probability of every other class, below it.
            shape: of the image; the radius does not depend on it.
        """
        return self.noise * float(scipy.stats.norm.ppf(lower) - scipy.stats.norm.ppf(upper)) / 2

    def guarantee(self) -> str:
        """Say what holds."""
        return (
            f"the class that the network answers most often under Gaussian noise of standard "
            f"deviation {self.noise:g} is the same for every image within the radius (L2)"
        )
