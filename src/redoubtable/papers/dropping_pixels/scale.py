"""How large the experiments are, and the budgets of the paper.

The paper's images lie in [-1, 1]: every radius and step here is half of what it says. It states
no number of attack steps, no training schedule and no granularity of the mask; the choices are
named where they are made.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Literal

from torch import nn

from redoubtable.defenses import Subsample
from redoubtable.masks import Granularity
from redoubtable.papers.frame import Scale, family
from redoubtable.papers.lab import Lab
from redoubtable.threat import L0, L2, L0Values, Linf, ThreatModel
from redoubtable.training import Settings as Training

NATURAL, UNIFORM = "natural", "subsampled:rate=uniform"
PIXELS = f"{UNIFORM},granularity=pixel"
RATE = 0.9
VARIANTS = {
    f"subsampled_uniform:rate={RATE:g},variant=original": "originals to uniform (V1)",
    f"subsampled_uniform:rate={RATE:g},variant=noisy": "noisy to uniform (V2)",
}
"""Section 3.3: networks that are to know nothing of what an attacker would show them."""
SHARE = Fraction(3, 100)
"""Of all pixels: the L0 budget, rounded down so that the bound holds."""


@dataclass(frozen=True)
class Budget:
    """A threat of section 4 of the paper: radius, step and number of steps, in [0, 1]."""

    eps: Fraction
    step: Fraction
    steps: int


def _halved(eps: str, step: str) -> Budget:
    """A budget as the paper writes it, for images in [-1, 1]."""
    return Budget(Fraction(eps) / 2, Fraction(step) / 2, 40)


BUDGETS = {
    "gtsrb": {"L2": _halved("512/255", "32/255"), "Linf": _halved("32/255", "4/255")},
    "cifar10": {"L2": _halved("1", "16/255"), "Linf": _halved("16/255", "2/255")},
    "digits": {"L2": _halved("4", "1/2"), "Linf": _halved("2/5", "1/25")},
}
"""The paper's budgets; the digits, which it does not have, fall at about these. On other data
those of CIFAR-10 are taken, with a warning."""


@dataclass(frozen=True)
class Dropping(Scale):
    """The scale of this paper.

    Attributes:
        rates: drop rates that are attacked.
        train_rates: drop rates of the networks of figure 2.
        norms: of figure 6; one alone for a run of half the length.
        guard_norms: under which the attack on ten masks with rejection is given more to do.
        steps: of the attacks, of the paper's number; 1 for all.
        eps_scale: what the paper's radii and steps are of: images in [-1, 1], "centred", so that
            they are halved here, or in [0, 1], "unit".
        l0_unit: what the L0 budget of 3% is of: pixels with all their channels, or single values.
        targets: what its targeted attacks aim at, beside those that only leave the label.
        adaptive: attacks that know all of the guard; by default the strongest that we know.
        certify_rates: drop rates that are certified.
        samples: that choose the class, and that bound its probability.
        certified: test images that are certified.
        maps: test images whose explanations are averaged over.
    """

    rates: Sequence[float] = ()
    train_rates: Sequence[float] = ()
    norms: Sequence[str] = ("Linf", "L2")
    guard_norms: Sequence[str] = ("L0", "Linf", "L2")
    steps: float = 1.0
    eps_scale: Literal["centred", "unit"] = "centred"
    l0_unit: Literal["pixel", "element"] = "pixel"
    targets: tuple[str, ...] = ("random", "runner_up")
    adaptive: tuple[str, ...] = ("dropping-pixels-adaptive", "dropping-pixels-strong")
    certify_rates: Sequence[float] = ()
    samples: tuple[int, int] = (1000, 10_000)
    certified: int = 500
    maps: int = 500

    def __post_init__(self) -> None:
        """Refuse norms that figure 6 does not have, and rates that are none."""
        super().__post_init__()
        for rate in self.certify_rates:
            if not 0.5 < rate < 1:
                raise ValueError(f"`certify_rates` are drop rates between 0.5 and 1, got {rate:g}")
        for name in ("rates", "train_rates"):
            for rate in getattr(self, name):
                if not 0 <= rate < 1:
                    raise ValueError(f"`{name}` are drop rates in [0, 1), got {rate:g}")
        if not self.norms or not set(self.norms) <= {"Linf", "L2"}:
            raise ValueError(f"`norms` of figure 6 are Linf and L2, got {'; '.join(self.norms)}")
        if not set(self.guard_norms) <= {"L0", "Linf", "L2"}:
            said = "; ".join(self.guard_norms)
            raise ValueError(f"`guard_norms` are L0, Linf and L2, got {said}")


SCALES = {
    "smoke": Dropping(
        data=("digits",),
        networks=("small_cnn",),
        arguments={"width": 8},
        training=Training(8, batch_size=64, lr=0.2, weight_decay=5e-4),
        images=24,
        targets=(),
        clean=200,
        held_out=100,
        draws=2,
        rates=(0.0, 0.9),
        train_rates=(0.0, 0.9),
        steps=0.125,
        guard_norms=("Linf",),
        adaptive=("pgd:steps=5",),
        certify_rates=(0.9,),
        samples=(50, 200),
        certified=12,
        maps=12,
    ),
    "cpu": Dropping(
        data=("gtsrb", "cifar10"),
        networks=("resnet20",),
        training=Training(12, weight_decay=5e-4, precision="bf16"),
        images=500,
        clean=None,
        held_out=1000,
        draws=20,
        cascade=True,
        rates=(0.0, 0.5, 0.8, 0.9, 0.95),
        train_rates=(0.0, 0.5, 0.8, 0.9, 0.95),
        adaptive=("dropping-pixels-strongest",),
        certify_rates=(0.8, 0.9, 0.95),
    ),
    "full": Dropping(
        data=("gtsrb", "cifar10"),
        networks=("resnet20", "resnet56", "resnet110"),
        training=Training(200, schedule="steps"),
        images=2000,
        clean=None,
        held_out=None,
        draws=20,
        rates=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
        train_rates=(0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99),
        certify_rates=(0.8, 0.9, 0.95, 0.97, 0.98, 0.99),
        certified=1000,
    ),
}


def masked(network: nn.Module, rate: float, granularity: Granularity = "element") -> nn.Module:
    """Return a network that sees subsampled images."""
    return nn.Sequential(Subsample(rate, granularity), network) if rate else network


def threat_of(lab: Lab[Dropping], norm: str) -> ThreatModel:
    """Return the paper's threat on a data set."""
    if norm == "L0":
        channels, height, width = lab.images("test", 1).shape
        if lab.scale.l0_unit == "element":
            return L0Values(int(SHARE * channels * height * width))
        return L0(int(SHARE * height * width))
    eps = float(budget_of(lab, norm).eps)
    return Linf(eps) if norm == "Linf" else L2(eps)


def budget_of(lab: Lab[Dropping], norm: str) -> Budget:
    """Return the paper's budget on a data set, as [0, 1] has it."""
    known = family(lab.data)
    if known not in BUDGETS:
        says = f"the paper has no radii for {lab.data}; those of CIFAR-10 are taken"
        warnings.warn(says, stacklevel=2)
        known = "cifar10"
    budget = BUDGETS[known][norm]
    if lab.scale.eps_scale == "unit":
        budget = replace(budget, eps=2 * budget.eps, step=2 * budget.step)
    return budget


def steps_of(lab: Lab[Dropping], norm: str) -> int:
    """Return how many steps an attack under a norm takes at a scale."""
    steps = 60 if norm == "L0" else budget_of(lab, norm).steps
    return max(1, round(steps * lab.scale.steps))
