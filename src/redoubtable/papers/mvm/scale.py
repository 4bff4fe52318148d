"""How large the experiments are, the settings that are compared, and the attacks of the paper.

Networks, training and attacks are borrowed from Feinman et al. 2017 (arXiv:1703.00410), as the
paper says; images lie in [0, 1].
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from torch import nn

from redoubtable.defenses import DEFENSES
from redoubtable.papers.frame import Scale, family
from redoubtable.papers.lab import Lab
from redoubtable.threat import L0, Linf, ThreatModel
from redoubtable.training import PRESETS
from redoubtable.training import Settings as Training

EPS = {
    "mnist": Fraction("0.3"),
    "digits": Fraction("0.3"),
    "cifar10": Fraction("0.05"),
    "svhn": Fraction("0.13"),
}
STEPS = {
    "mnist": Fraction("0.01"),
    "digits": Fraction("0.01"),
    "cifar10": Fraction("0.005"),
    "svhn": Fraction("0.01"),
}
NOISE = {
    "mnist": {"FGSM": 0.310, "BIM-A": 0.128, "BIM-B": 0.265},
    "digits": {"FGSM": 0.310, "BIM-A": 0.128, "BIM-B": 0.265},
    "cifar10": {"FGSM": 0.050, "BIM-A": 0.009, "BIM-B": 0.039},
    "svhn": {"FGSM": 0.132, "BIM-A": 0.015, "BIM-B": 0.122},
}
"""Standard deviations of Gaussian noise as large as the attacks (Feinman et al. 2017, code)."""

SETTINGS = {
    "MVM c = 0.5N": "mvm:share=0.5",
    "MVM c = N": "mvm:share=1",
    "MVM c = 2N": "mvm:share=2",
    "SAP 50%": "sap:share=0.5",
    "SAP 80%": "sap:share=0.8",
    "SAP 100%": "sap:share=1",
    "dropout p = 0.5": "dropout:rate=0.5",
}
"""The rows of table 3."""
BY_LAYER = {
    f"{name} of each layer": f"{SETTINGS[name]},counts=layer"
    for name in ("MVM c = 0.5N", "MVM c = N", "MVM c = 2N")
}
"""The other reading of a number of draws (A1)."""


@dataclass(frozen=True)
class Sampling(Scale):
    """The scale of this paper.

    Attributes:
        epochs_of: by data set, unless `epochs` are given; others are trained as in the paper.
        passes: R, hard labels of each image.
        adaptive_images: correctly classified images that are attacked adaptively.
        attacked_settings: the rows of table 3 that are; by default those of `attacked_on`.
        steps: of the adaptive attacks.
        eot: draws that their gradients are averaged over.
        sap_law: how SAP draws. Values by themselves cost less and differ in nothing but how
            much the number of those that are kept varies.
    """

    epochs_of: Mapping[str, int] = field(default_factory=dict)
    passes: int = 100
    adaptive_images: int = 300
    attacked_settings: Sequence[str] = ()
    steps: int = 40
    eot: int = 10
    sap_law: str = "bernoulli"

    def __post_init__(self) -> None:
        """Refuse rows that there are not."""
        super().__post_init__()
        for name in self.attacked_settings:
            if name not in SETTINGS:
                known = "; ".join(SETTINGS)
                raise ValueError(f"`attacked_settings` are rows of table 3, {known}, got {name!r}")

    def attacked_on(self, data: str) -> Sequence[str]:
        """Return the rows that are attacked adaptively, MVM as the paper has it best first."""
        best = best_of_mvm(data)
        return self.attacked_settings or (best, "SAP 100%", "dropout p = 0.5")

    def networks_on(self, data: str) -> tuple[str, ...]:
        """Return the network of Feinman et al. for a data set."""
        preset = _PRESETS.get(family(data))
        return (PRESETS[preset].obj().model,) if preset else self.networks

    def training_on(self, data: str) -> Training:
        """Return the training of Feinman et al., with the scale's precision."""
        preset = _PRESETS.get(family(data))
        if not preset:
            return replace(self.training, epochs=self.epochs or self.training.epochs)
        settings = PRESETS[preset].obj().settings
        epochs = self.epochs or self.epochs_of.get(family(data), settings.epochs)
        return replace(settings, epochs=epochs, precision=self.training.precision)


_PRESETS = {"mnist": "feinman-mnist", "cifar10": "feinman-cifar10", "svhn": "feinman-svhn"}

SCALES = {
    "smoke": Sampling(
        data=("digits",),
        networks=("small_cnn",),
        arguments={"width": 8},
        training=Training(8, batch_size=64, lr=0.2, weight_decay=5e-4),
        images=16,
        clean=200,
        held_out=40,
        draws=1,
        passes=10,
        adaptive_images=8,
        attacked_settings=("MVM c = 0.5N", "SAP 100%"),
        steps=4,
        eot=2,
    ),
    "cpu": Sampling(
        data=("mnist", "cifar10"),
        networks=("feinman_mnist", "feinman_cifar10"),
        training=Training(10, precision="bf16"),
        epochs_of={"cifar10": 25},
        images=1000,
        clean=None,
        held_out=1000,
        draws=1,
    ),
    "full": Sampling(
        data=("mnist", "svhn", "cifar10"),
        networks=("feinman_mnist", "feinman_svhn", "feinman_cifar10"),
        training=Training(60),
        images=10_000,
        clean=None,
        held_out=None,
        draws=1,
        adaptive_images=1000,
        attacked_settings=tuple(SETTINGS),
        steps=200,
        eot=30,
        sap_law="multinomial",
    ),
}


def attacks_of(lab: Lab[Sampling]) -> Mapping[str, tuple[ThreatModel, str]]:
    """Return the paper's attacks on a data set, by their names there, and BIM-B."""
    name = family(lab.data) if family(lab.data) in EPS else "mnist"
    bim = f"bim:loss=cross_entropy,steps=50,step_size={STEPS[name]}"
    height, width = lab.images("test", 1).shape[1:]
    return {
        "FGSM": (threat_of(lab.data), "fgsm:loss=cross_entropy"),
        "BIM-A": (threat_of(lab.data), f"{bim},stop=first"),
        "JSMA": (L0(height * width), "jsma:gamma=0.1,theta=1"),  # its own limit is gamma
        "BIM-B": (threat_of(lab.data), f"{bim},stop=last"),
    }


def threat_of(data: str) -> Linf:
    """Return the radius of FGSM and BIM, which adaptive attacks have, too."""
    return Linf(float(EPS.get(family(data), EPS["mnist"])))


def best_of_mvm(data: str) -> str:
    """Return the row of MVM that detects best in the paper; it is this one that is attacked."""
    return {"cifar10": "MVM c = 2N", "svhn": "MVM c = N"}.get(family(data), "MVM c = 0.5N")


def sampled(lab: Lab[Sampling], text: str, **settings: Any) -> nn.Module:
    """Return the lab's network with units; all of them have the probabilities of one pass."""
    bound = DEFENSES.bind(text)
    arguments = dict(bound.arguments)
    if bound.entry.name == "sap":
        arguments |= {"recompute": False, "law": lab.scale.sap_law}
    model: nn.Module = bound.entry.obj(lab.network("natural"), **{**arguments, **settings})
    return model.eval()
