"""Attacks by suite."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from redoubtable.losses import BETAS
from redoubtable.parts import Facts
from redoubtable.threat import L0, L1, L2, L0Values, Linf, ThreatModel

_ANY: tuple[type[ThreatModel], ...] = (Linf, L2, L1, L0, L0Values)


@dataclass(frozen=True)
class Line:
    """One attack of a suite.

    Attributes:
        text: the attack, as on the command line.
        norms: the threats that it is meant for.
        when: of a model's facts, whether it is worth its cost there.
        passes: network passes that a gradient of a random model is averaged over, however many of
            them one of its answers takes; None for what the plan takes.
        randomness: share of a model's randomness that is on while the attack climbs, where it has a
            size.
    """

    text: str
    norms: tuple[type[ThreatModel], ...] = _ANY
    when: Callable[[Facts], bool] = lambda facts: True
    passes: int | None = None
    randomness: float = 1.0

    def on(self, facts: Facts) -> str:
        """Return the attack as a model's facts want it."""
        words = [self.text]
        if self.passes is not None and facts.stochastic:
            words.append(f"eot={max(1, self.passes // facts.passes)}")
        if self.randomness != 1 and facts.adjustable:
            words.append(f"randomness={self.randomness:g}")
        return ",".join(words)


@dataclass(frozen=True)
class Suite:
    """Attacks that belong together.

    Attributes:
        lines: attacks in their order.
        cascade: each attack sees only what stands after those before it, and its row counts what
            they found too. On random and batch-dependent models every attack sees all images.
        summary: what it is, with its source.
    """

    lines: tuple[Line, ...]
    cascade: bool
    summary: str

    def against(self, facts: Facts, threat: ThreatModel) -> tuple[str, ...]:
        """Return the attacks that are meant for a model and a threat."""
        fit = (line for line in self.lines if isinstance(threat, line.norms))
        # Two lines may differ in what a model's facts make nothing of.
        return tuple(dict.fromkeys(line.on(facts) for line in fit if line.when(facts)))


def _gradients_may_lie(facts: Facts) -> bool:
    """Whether attacks without gradients are tried at length beside the others."""
    return not _averages_tell(facts)


def _averages_tell(facts: Facts) -> bool:
    """Whether averaged gradients are true, so that a short search is enough to doubt them.

    Its answers are averages too: at length it would cost many times as much and find less.
    """
    return facts.stochastic and facts.differentiable


def _dropping(step: str, step_l2: str) -> tuple[Line, ...]:
    """The paper's {CE, CW} x {misclassification, targeted} at the steps of a data set."""
    kinds = [
        f"loss={loss}{targets}"
        for targets in ("", ",targets=random", ",targets=runner_up")
        for loss in ("cross_entropy", "carlini_wagner")
    ]
    pgd = "pgd:eot=10,{},momentum=0,steps=40,step_size={}"
    return (
        *(Line(pgd.format(kind, step), (Linf,)) for kind in kinds),
        *(Line(pgd.format(kind, step_l2), (L2,)) for kind in kinds),
        *(Line(f"l0_pgd:eot=10,{kind},steps=60", (L0, L0Values)) for kind in kinds),
    )


def _abstains(facts: Facts) -> bool:
    return facts.abstains


def _answers(facts: Facts) -> bool:
    return not facts.abstains


_MANY = 90
"""Passes of a gradient of `pgd` under L0: thirty are too few (docs/attacks.md)."""

_LESS = 0.9
"""Share of the randomness that `l0_pgd` climbs under; it has no momentum to average the draws."""


_TOWARDS = "steps=40,targets=runner_up"
_HINGES = [f"loss=evasion_hinge_{beta:g}" for beta in BETAS]

SUITES: Mapping[str, Suite] = {
    "quick": Suite((Line("fgsm"), Line("pgd:steps=10")), False, "A first look."),
    "adaptive": Suite(
        (
            Line("fgsm"),
            Line("pgd:restarts=2"),
            Line("square:queries=2000", (Linf, L2), _gradients_may_lie),
            Line("sparse_rs:queries=500", (L0,), _gradients_may_lie),
            Line("square:queries=100", (Linf, L2), _averages_tell),
            Line("sparse_rs:queries=100", (L0,), _averages_tell),
        ),
        False,
        "What the model's facts and its parts' own objectives ask for.",
    ),
    "standard": Suite(
        (
            Line("apgd:loss=cross_entropy", (Linf, L2, L1)),
            Line("apgd_targeted:loss=dlr", (Linf, L2, L1)),
            Line("fab_targeted", (Linf, L2, L1)),
            Line("square", (Linf, L2)),
        ),
        True,
        "AutoAttack for models without randomness (Croce & Hein 2020, arXiv:2003.01690).",
    ),
    "random": Suite(
        (
            Line("apgd:eot=20,loss=cross_entropy", (Linf, L2, L1)),
            Line("apgd:eot=20,loss=dlr", (Linf, L2, L1)),
            Line("square:eot=20,queries=1000", (Linf, L2)),
            Line("pgd:eot=20,loss=margin", (L0, L0Values)),
        ),
        False,
        "AutoAttack for random models (the same, rand version), and Square on averaged answers.",
    ),
    "lean": Suite(
        (Line("lean", (Linf, L2)), Line("square:queries=200", (Linf, L2))),
        True,
        "Nearly the verdict of standard for a fraction of its passes (after Liu et al. 2022).",
    ),
    "dropping-pixels": Suite(
        _dropping("1/255", "8/255"),
        False,
        "Hosseini et al. 2019 (arXiv:1905.00180) on CIFAR-10: gradients over ten masks.",
    ),
    "dropping-pixels-gtsrb": Suite(
        _dropping("2/255", "16/255"), False, "The same on GTSRB, with twice the steps' length."
    ),
    "dropping-pixels-adaptive": Suite(
        (
            Line("pgd:steps=40,targets=runner_up", (Linf, L2), passes=30),
            Line("pgd:steps=40", (Linf, L2), passes=30),
            *(Line(f"pgd:{h},steps=40", (Linf, L2), _abstains, 30) for h in _HINGES),
            Line("l0_pgd:steps=60", (L0, L0Values), passes=30),
            Line("l0_pgd:steps=60", (L0, L0Values), passes=30, randomness=_LESS),
            Line("l0_pgd:steps=60,targets=runner_up", (L0, L0Values), passes=30),
            Line("pgd:steps=60", (L0, L0Values), passes=_MANY),
            *(Line(f"l0_pgd:{h},steps=60", (L0, L0Values), _abstains, 30) for h in _HINGES),
            Line("square:queries=200", (Linf, L2)),
            Line("sparse_rs:queries=200", (L0,)),
        ),
        False,
        "The strongest attacks on random subsampling, by what was measured (docs/attacks.md).",
    ),
    "dropping-pixels-strongest": Suite(
        (
            Line("pgd:loss=cross_entropy,steps=40,targets=runner_up", (Linf, L2), _answers, 30),
            Line("pgd:loss=cross_entropy,steps=40", (Linf, L2), _answers, 30),
            Line(
                "pgd:loss=evasion_confidence,steps=40,targets=runner_up", (Linf, L2), _abstains, 30
            ),
            Line("pgd:loss=margin,steps=60", (L0, L0Values), _answers, _MANY),
            Line("pgd:loss=evasion_confidence,steps=60", (L0, L0Values), _abstains, _MANY),
        ),
        False,
        "Of dropping-pixels-adaptive what alone left the least (docs/attacks.md).",
    ),
    "dropping-pixels-strong": Suite(
        (
            Line("pgd:restarts=10,steps=200", (Linf, L2, L0, L0Values), passes=100),
            Line("l0_pgd:steps=200", (L0, L0Values), passes=100),
        ),
        False,
        "Where money is no object: 200 steps, ten restarts, 100 passes a gradient.",
    ),
    "defendr": Suite(
        (
            Line("fgsm:loss=cross_entropy", (Linf,)),
            Line("pgd:loss=cross_entropy,steps=10,step_size=0.05", (Linf,)),
        ),
        False,
        "Defendr: FGSM and PGD with the defaults of CleverHans.",
    ),
    "mvm-mnist": Suite(
        (
            Line("fgsm:loss=cross_entropy", (Linf,)),
            Line("bim:loss=cross_entropy,steps=50,step_size=0.01,stop=first", (Linf,)),
            Line("jsma:gamma=0.1,theta=1", (L0,)),
        ),
        False,
        "MVM sampling on MNIST and SVHN: FGSM, BIM-A, JSMA (Feinman et al. 2017).",
    ),
    "mvm-cifar10": Suite(
        (
            Line("fgsm:loss=cross_entropy", (Linf,)),
            Line("bim:loss=cross_entropy,steps=50,step_size=0.005,stop=first", (Linf,)),
            Line("jsma:gamma=0.1,theta=1", (L0,)),
        ),
        False,
        "MVM sampling on CIFAR-10: the same with half the step.",
    ),
    "saliency-detector": Suite(
        (
            Line("fgsm:label=predicted,loss=cross_entropy", (Linf,)),
            Line("bim:loss=cross_entropy,steps=10", (Linf,)),
            Line("iterative_l2:steps=10", (L2,)),
            Line("jsma:gamma=0.1,theta=1", (L0,)),
        ),
        False,
        "The saliency detector: FGSM without label leaking, BIM, its Euclidean form, JSMA.",
    ),
    "sad": Suite(
        (
            Line("pgd:loss=cross_entropy,momentum=0,steps=20", (Linf,)),
            Line("pgd:eot=32,loss=cross_entropy,momentum=0,steps=12,step_size=2/255", (Linf,)),
            Line("carlini_wagner:const=0.2", (L2,)),
            Line("zoo:tanh=True", (L2,)),
            Line("one_pixel", (L0,)),
        ),
        False,
        "SAD: PGD-20, EOT-PGD, C&W with a constant of 0.2, ZOO, one pixel.",
    ),
}
