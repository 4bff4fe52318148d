"""Figure 1: how likely each pixel is drawn, for noise, clean and adversarial images."""

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from redoubtable.defenses import mvm_probabilities
from redoubtable.gradients import input_gradient
from redoubtable.losses import aim, cross_entropy
from redoubtable.papers.frame import Row
from redoubtable.papers.lab import Lab
from redoubtable.papers.mvm.protocol import adversarial
from redoubtable.papers.mvm.scale import Sampling
from redoubtable.statistics import mean_share
from redoubtable.types import Images

SHARES = (0.1, 0.5, 1.0, 2.0)
"""Draws as a share of the pixels; the paper has several without saying which."""


def figure_1(lab: Lab[Sampling]) -> Iterator[Row]:
    """How far the probabilities are from those of the clean image, and the sorted curves."""
    (x, y), x_adv = lab.attacked, adversarial(lab, "FGSM")
    images = {"FGSM's noise": x_adv - x, "clean": x, "FGSM": x_adv}
    # The box takes most of the noise on black pixels away; what FGSM wanted is even.
    objective = aim(cross_entropy, y, None)
    signs = input_gradient(lab.network("natural"), x, objective).gradient.sign()
    for share in SHARES:
        found = {name: _probabilities(i, share) for name, i in images.items()}
        found["noise without the box"] = _probabilities(signs, share)
        for name in ("FGSM", "FGSM's noise", "noise without the box"):
            apart = (found[name] - found["clean"]).abs().sum(1) / 2
            about = "of its p to the clean image's" if name == "FGSM" else "of its p to uniform"
            if name != "FGSM":
                apart = (found[name] - 1 / found[name].shape[1]).abs().sum(1) / 2
            value = mean_share(apart.clamp(0, 1).numpy())
            yield Row(f"{name}, c = {share:g}N", f"distance {about}", "none", value)
        curves = {n: np.sort(p[0].numpy()) for n, p in found.items()}
        energies = x[:1].square().sum(1).flatten(1)
        curves["clean, p as the root"] = np.sort(
            mvm_probabilities(energies, 1, solver="sqrt")[0].numpy()
        )
        lab.picture(f"probabilities at c = {share:g}N", _curves(curves))


def _probabilities(images: Images, share: float) -> torch.Tensor:
    """(N, HW) probabilities of the pixels in a draw."""
    energies = images.double().square().sum(1).flatten(1)
    return mvm_probabilities(energies, max(1, round(share * energies.shape[1])))


def _curves(curves: dict[str, NDArray[np.float64]]) -> dict[str, NDArray[np.generic]]:
    """What `reports.panels` draws as lines."""
    labels = np.array(["pixels, sorted", "probability in a draw"])
    return {"labels": labels, **{f"curve/{name}": values for name, values in curves.items()}}
