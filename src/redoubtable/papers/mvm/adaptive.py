"""What the paper has not: attacks that know of the units, of the votes and of the threshold."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from numpy.typing import NDArray
from torch import nn

from redoubtable.attacks.known import Known
from redoubtable.defenses import Vote
from redoubtable.detectors import Entropy, Rejecting, by_false_positives
from redoubtable.evaluation import Evaluation
from redoubtable.files import digest_model, digest_tensors
from redoubtable.papers.frame import Row, family
from redoubtable.papers.lab import Lab
from redoubtable.papers.mvm.protocol import correct
from redoubtable.papers.mvm.scale import SETTINGS, Sampling, sampled, threat_of
from redoubtable.seeding import seeded
from redoubtable.statistics import Proportion, auc
from redoubtable.threat import Linf, ThreatModel
from redoubtable.types import Images, Labels

RATES = (0.05, 0.01)
"""False positive rates at which detectors are attacked, the hardest to pass first."""


def adaptive(lab: Lab[Sampling]) -> Iterator[Row]:
    """Each detector of table 3 against attacks that know all of it."""
    x, y = targets(lab)
    threat = threat_of(lab.data)
    without = lab.evaluation(
        "without units", lab.network("natural"), threat, confident(lab), images=(x, y), keep=len(x)
    )
    shared = each_made(x, without, "the network without units")
    for name in lab.scale.attacked_on(lab.data):
        text = SETTINGS[name]
        draws = lab.evaluation(
            f"one draw of {name}", sampled(lab, text), threat, many_masks(lab),
            images=(x, y), keep=len(x), draws=2,
        )  # fmt: skip
        made = [*shared, *each_made(x, draws, "one draw")]
        if text.startswith("mvm"):
            through = lab.evaluation(
                f"one draw of {name}, through p", sampled(lab, text, derivative="implicit"), threat,
                many_masks(lab)[:1], images=(x, y), keep=len(x), draws=2,
            )  # fmt: skip
            made += each_made(x, through, "one draw, through p")
        yield from _guarded(lab, name, text, (x, y), threat, made)


def _guarded(
    lab: Lab[Sampling],
    name: str,
    text: str,
    images: tuple[Images, Labels],
    threat: ThreatModel,
    made: Sequence[Known],
) -> Iterator[Row]:
    """One detector at each rate, shown all that was made, and attacked itself.

    The attack on the guard itself is made at the rate that is hardest to pass; what it finds is
    shown to the guard at the others.
    """
    attacks: list[Any] = [*made, itself(lab)]
    for rate in RATES:
        model = guard(lab, sampled(lab, text), rate)
        found = lab.evaluation(
            f"{name} at {rate:g}", model, threat, attacks, images=images, keep=len(images[0]),
            draws=1,
        )  # fmt: skip
        own = each_made(images[0], found, f"the guard at {rate:g}", "gradient")[-1]
        attacks = [*made, own]
        robust = Proportion(**found.record["robust"]["accuracy"]["one_shot"])
        strict = Proportion(**found.record["robust"]["strict"]["one_shot"])
        at = f"{name}, {rate:.0%} false positives"
        clean = Proportion(**found.record["clean"]["accuracy"]["one_shot"])
        yield Row(at, "accuracy", "clean", clean, draws=lab.scale.passes)
        yield Row(at, "accuracy", "adaptive", robust, draws=lab.scale.passes)
        yield Row(at, "strict accuracy", "adaptive", strict, draws=lab.scale.passes)
        if rate == RATES[0]:
            yield Row(name, "AUC", "adaptive", _auc_of(found), draws=lab.scale.passes)


def _auc_of(found: Evaluation) -> Proportion:
    """The area under the curve of the clean images and the worst of each, on fresh draws."""
    chosen, arrays = found.arrays["robust/chosen"], found.arrays
    names = [key.removesuffix("/suspicion") for key in arrays if key.endswith("/suspicion")]
    # The first is the clean image itself, which is the worst where no attack did anything.
    suspicion = [arrays[f"{name}/suspicion"][:, 0] for name in names]
    worst = [suspicion[k][i] for i, k in enumerate(chosen)]
    return auc(arrays["clean/suspicion"][:, 0], worst)


def targets(lab: Lab[Sampling]) -> tuple[Images, Labels]:
    """Return the first correctly classified images, which adaptive attacks start from."""
    x, y = lab.attacked
    some = correct(lab)[: lab.scale.adaptive_images]
    return x[some], y[some]


def guard(lab: Lab[Sampling], model: nn.Module, rate: float) -> Rejecting:
    """Return the detector of Algorithm 3, with a threshold of held-out clean images."""
    votes = Vote(model, draws=lab.scale.passes, count="labels").eval()
    score = Entropy(votes=lab.scale.passes)
    x, _ = lab.tensors("validation", lab.scale.held_out)
    without = Rejecting(votes, score, 0.0)
    key = {"model": digest_model(without), "x": digest_tensors(x)}

    def make() -> dict[str, NDArray[Any]]:
        with torch.no_grad(), seeded("thresholds", lab.seed):
            return {"scores": without.scores(x, 50).numpy()}

    scores = torch.from_numpy(lab.kept("scores of held-out images", key, make)["scores"])
    return Rejecting(votes, score, by_false_positives(scores, rate)).eval()


def confident(lab: Lab[Sampling]) -> list[str]:
    """Attacks on the network without units that leave room to spare.

    A unit's mean is the identity, so their gradient is that of the mean unit: 5.1 of the digest.
    """
    steps = lab.scale.steps
    return [
        f"pgd:loss=carlini_wagner_20,momentum=0.9,steps={steps},stop=False,targets=runner_up",
        f"pgd:loss=cross_entropy,momentum=0.9,steps={steps},stop=False",
    ]


def many_masks(lab: Lab[Sampling]) -> list[str]:
    """Attacks that ask many draws at once for the same wrong class, with room to spare."""
    rest = f"eot={lab.scale.eot},momentum=0.9,steps={lab.scale.steps}"
    return [
        f"pgd:loss=carlini_wagner_5,targets=runner_up,{rest}",
        f"pgd:loss=cross_entropy,{rest}",
    ]


def itself(lab: Lab[Sampling]) -> str:
    """The attack on the whole guard: confidence in a wrong class, so that all labels agree."""
    return f"pgd:loss=evasion_confidence,steps={max(1, lab.scale.steps // 8)}"


def each_made(x: Images, found: Evaluation, model: str, access: str = "transfer") -> list[Known]:
    """The images of each adaptive attack of an evaluation, to be shown to other models."""
    made: list[Known] = []
    for name, images in found.images.items():
        if name.startswith("adaptive/"):
            attack = name.removeprefix("adaptive/")
            about = f"against {model}, {attack}"
            made.append(Known(x, torch.from_numpy(images), about, access))
    return made


def sap_classifier(lab: Lab[Sampling]) -> Iterator[Row]:
    """SAP as its authors have it, a classifier, under averaged gradients.

    Athalye et al. 2018 (arXiv:1802.00420, section 5.3.1) leave 0% at Linf:8/255 on CIFAR-10.
    """
    x, y = targets(lab)
    model = sampled(lab, "sap:share=1", recompute=True)
    threat = Linf(8 / 255) if family(lab.data) == "cifar10" else threat_of(lab.data)
    attack = f"pgd:loss=margin,eot={lab.scale.eot},momentum=0.9,steps={lab.scale.steps}"
    found = lab.evaluation("SAP", model, threat, [attack], images=(x, y), draws=10)
    clean = Proportion(**found.record["clean"]["accuracy"]["one_shot"])
    yield Row("SAP 100%", "accuracy", "clean", clean, draws=10)
    for view in ("static", "adaptive"):
        left = Proportion(**found.record[view]["accuracy"]["one_shot"])
        yield Row("SAP 100%", "accuracy", view, left, draws=10, note=str(threat))
