"""Attacks by suite."""

from collections.abc import Mapping
from dataclasses import dataclass

from redoubtable.threat import L0, L1, L2, Linf, ThreatModel

_ANY: tuple[type[ThreatModel], ...] = (Linf, L2, L1, L0)


@dataclass(frozen=True)
class Suite:
    """Attacks that belong together.

    Attributes:
        lines: attacks, each with the norms that it is meant for.
        cascade: each attack sees only what stands after those before it, and its row counts what
            they found too. On random and batch-dependent models every attack sees all images.
        summary: what it is, with its source.
    """

    lines: tuple[tuple[str, tuple[type[ThreatModel], ...]], ...]
    cascade: bool
    summary: str

    def under(self, threat: ThreatModel) -> tuple[str, ...]:
        """Return the attacks that are meant for a threat."""
        return tuple(text for text, norms in self.lines if isinstance(threat, norms))


def _all(*texts: str) -> tuple[tuple[str, tuple[type[ThreatModel], ...]], ...]:
    return tuple((text, _ANY) for text in texts)


_LOSSES_OF_DROPPING = ("cross_entropy", "carlini_wagner")
_DROPPING = "pgd:eot=10,loss={},momentum=0,steps=40,step_size={}"

SUITES: Mapping[str, Suite] = {
    "quick": Suite(_all("fgsm", "pgd:steps=10"), False, "A first look."),
    "adaptive": Suite(
        _all("fgsm", "pgd:restarts=2"),
        False,
        "What the model's facts and its parts' own objectives ask for.",
    ),
    "standard": Suite(
        (
            ("apgd:loss=cross_entropy", (Linf, L2, L1)),
            ("apgd_targeted", (Linf, L2, L1)),
            ("fab_targeted", (Linf, L2, L1)),
            ("square", (Linf, L2)),
        ),
        True,
        "AutoAttack for models without randomness (Croce & Hein 2020, arXiv:2003.01690).",
    ),
    "random": Suite(
        (
            ("apgd:eot=20,loss=cross_entropy", (Linf, L2, L1)),
            ("apgd:eot=20,loss=dlr", (Linf, L2, L1)),
            ("square:eot=20,queries=1000", (Linf, L2)),
            ("pgd:eot=20,loss=margin", (L0,)),
        ),
        False,
        "AutoAttack for random models (the same, rand version), and Square on averaged answers.",
    ),
    "lean": Suite(
        (("lean", (Linf, L2)), ("square:queries=200", (Linf, L2))),
        True,
        "Nearly the verdict of standard for a fraction of its passes (after Liu et al. 2022).",
    ),
    "dropping-pixels": Suite(
        (
            *((_DROPPING.format(loss, "1/255"), (Linf,)) for loss in _LOSSES_OF_DROPPING),
            *((_DROPPING.format(loss, "8/255"), (L2,)) for loss in _LOSSES_OF_DROPPING),
            *((f"l0_pgd:eot=10,loss={loss},steps=60", (L0,)) for loss in _LOSSES_OF_DROPPING),
        ),
        False,
        "Hosseini et al. 2019 (arXiv:1905.00180) on CIFAR-10: gradients over ten masks.",
    ),
    "defendr": Suite(
        (
            ("fgsm:loss=cross_entropy", (Linf,)),
            ("pgd:loss=cross_entropy,steps=10,step_size=0.05", (Linf,)),
        ),
        False,
        "Defendr: FGSM and PGD with the defaults of CleverHans.",
    ),
    "mvm-mnist": Suite(
        (
            ("fgsm:loss=cross_entropy", (Linf,)),
            ("bim:loss=cross_entropy,steps=50,step_size=0.01,stop=first", (Linf,)),
            ("jsma:gamma=0.1,theta=1", (L0,)),
        ),
        False,
        "MVM sampling on MNIST and SVHN: FGSM, BIM-A, JSMA (Feinman et al. 2017).",
    ),
    "mvm-cifar10": Suite(
        (
            ("fgsm:loss=cross_entropy", (Linf,)),
            ("bim:loss=cross_entropy,steps=50,step_size=0.005,stop=first", (Linf,)),
            ("jsma:gamma=0.1,theta=1", (L0,)),
        ),
        False,
        "MVM sampling on CIFAR-10: the same with half the step.",
    ),
    "saliency-detector": Suite(
        (
            ("fgsm:label=predicted,loss=cross_entropy", (Linf,)),
            ("bim:loss=cross_entropy,steps=10", (Linf,)),
            ("iterative_l2:steps=10", (L2,)),
            ("jsma:gamma=0.1,theta=1", (L0,)),
        ),
        False,
        "The saliency detector: FGSM without label leaking, BIM, its Euclidean form, JSMA.",
    ),
    "sad": Suite(
        (
            ("pgd:loss=cross_entropy,momentum=0,steps=20", (Linf,)),
            ("pgd:eot=32,loss=cross_entropy,momentum=0,steps=12,step_size=2/255", (Linf,)),
            ("carlini_wagner:const=0.2", (L2,)),
            ("zoo", (L2,)),
            ("one_pixel", (L0,)),
        ),
        False,
        "SAD: PGD-20, EOT-PGD, C&W with a constant of 0.2, ZOO, one pixel.",
    ),
}
