"""Checks that tell whether a robust accuracy can be believed; each gives a finding.

After the checklist of Carlini et al. 2019 (arXiv:1902.06705, section 5) and the flags of Croce &
Hein 2020.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from redoubtable.attacks import ATTACKS
from redoubtable.evaluation.candidates import Bench, Candidate, Settings
from redoubtable.evaluation.chunks import Chunks
from redoubtable.evaluation.outcomes import Flags, defended
from redoubtable.evaluation.plan import BoundAttack
from redoubtable.evaluation.summary import worst
from redoubtable.gradients import input_gradient
from redoubtable.losses import LOSSES, aim, cross_entropy
from redoubtable.registry import settable
from redoubtable.seeding import seeded
from redoubtable.statistics import mcnemar, wilson
from redoubtable.threat import ThreatModel

CHECKED_IMAGES = 100
"""How many of the first images the checks that attack again look at."""
RETRIED_IMAGES = 133
"""How many of the first images are attacked with three times the effort. What the evaluation found
with the effort once is known, so this costs as much as attacking a hundred with both."""
_FEW = 0.02
"""A share of images small enough to be called none: one or two of a hundred."""
_LEVEL = 0.025
"""Of a one-sided test. Where both directions are an alarm, 5% of the sound attacks raise one at
most."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: its name.
        verdict: "pass", "fail", or "not run".
        says: one sentence for a reader, with the numbers.
        qualifies: the number that it qualifies: "clean", "static" or "adaptive".
        evidence: the numbers.
    """

    check: str
    verdict: Literal["pass", "fail", "not run"]
    says: str
    qualifies: Literal["clean", "static", "adaptive"]
    evidence: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return it as a record keeps it."""
        return asdict(self)


def _verdict(good: bool) -> Literal["pass", "fail"]:
    return "pass" if good else "fail"


def check_randomness(bench: Bench) -> Finding:
    """Whether two looks at the same images differ exactly when the model says it is random."""
    x = bench.data.first(CHECKED_IMAGES)[0].to(bench.device)
    with torch.no_grad(), seeded("randomness", bench.settings.seed):
        differ = (bench.model(x) != bench.model(x)).any(1).float().mean().item()
    stated = bench.facts.stochastic
    says = f"the model says it is {'random' if stated else 'deterministic'}; two passes over the "
    says += f"same {len(x)} images differ on {differ:.0%}"
    if differ and not stated:
        says += "; state `stochastic=True`, or its robustness is one lucky draw"
    evidence = {"stated": stated, "differing": differ, "n": len(x)}
    return Finding("randomness", _verdict((differ > 0) == stated), says, "clean", evidence)


def check_gradients(bench: Bench, attacks: Sequence[BoundAttack]) -> Finding:
    """Whether the gradients that the attacks follow are there at all."""
    x, y = (t.to(bench.device) for t in bench.data.first(CHECKED_IMAGES))
    dead = torch.ones(len(x), dtype=torch.bool, device=x.device)
    batch = max(1, bench.settings.batch_size // bench.facts.passes)
    losses = {b.arguments.get("loss", cross_entropy) for b in attacks if _follows_gradients(b)}
    names = sorted(LOSSES.name_of(loss) or repr(loss) for loss in losses)
    if not losses:
        says = "no attack here follows gradients"
        return Finding("gradients", "not run", says, "adaptive", {"n": 0})
    try:
        for loss in losses:
            with seeded("gradients", bench.settings.seed):
                slope = input_gradient(bench.model, x, aim(loss, y, None), batch_size=batch)
                useless = (slope.gradient == 0) | ~slope.gradient.isfinite()
            dead &= useless.flatten(1).all(1)
    except ValueError as error:
        return Finding("gradients", "fail", str(error), "adaptive", {"n": len(x)})
    share = dead.float().mean().item()
    says = f"{share:.0%} of {len(x)} images have a gradient of zero or NaN under every loss used"
    if share > _FEW:
        says += "; gradient attacks are blind there: name a surrogate or attack without gradients"
    evidence = {"zero": share, "n": len(x), "losses": names}
    return Finding("gradients", _verdict(share <= _FEW), says, "adaptive", evidence)


def _follows_gradients(bound: BoundAttack) -> bool:
    return bool(bound.entry.facts["access"] == "gradient")


def strongest(attacks: Sequence[BoundAttack]) -> list[BoundAttack]:
    """Return the attacks that take steps, or all where none does."""
    return [b for b in attacks if "steps" in settable(b.entry.obj)] or list(attacks)


def part_of(bench: Bench, images: int = CHECKED_IMAGES) -> Bench:
    """Return a bench of the first images."""
    few: Settings = replace(bench.settings, draws=min(bench.settings.draws, 10))
    data = Chunks(*bench.data.first(images), bench.data.length)
    return Bench(bench.model, data, few, bench.journal, bench.tick)


def _first(candidate: Candidate, n: int, draws: int) -> Candidate:
    """A candidate for the first images, with its first draws."""
    part = (slice(n), slice(draws))
    return replace(candidate, selection=candidate.selection[part], report=candidate.report[part])


def _defended(bench: Bench, candidates: Sequence[Candidate], classes: int) -> Flags:
    """(N, draws) of each image's worst candidate."""
    y = bench.data.y.numpy()
    return worst(candidates, lambda answers: defended(answers, y, classes))[1]


def _scaled(bound: BoundAttack, word: str, factor: int) -> BoundAttack:
    """The attack with more steps or draws; a step size that it leaves open shrinks with steps."""
    default = bound.entry.obj.__kwdefaults__[word]  # type: ignore[attr-defined]
    arguments = {**bound.arguments, word: factor * bound.arguments.get(word, default)}
    return ATTACKS.bind(ATTACKS.text(bound.entry.name, arguments))


def check_more_steps(
    bench: Bench,
    attacks: Sequence[BoundAttack],
    found: Sequence[Candidate],
    threat: ThreatModel,
    classes: int,
) -> Finding:
    """Whether three times the steps change nothing; they must never help the defender.

    Args:
        bench: the model and all of its examples.
        attacks: the adaptive ones.
        found: what they found, each with its effort once.
        threat: what they may change.
        classes: K; the answer K is a rejection.
    """
    return _check_more("more_steps", "steps", bench, attacks, found, threat, classes)


def check_more_draws(
    bench: Bench,
    attacks: Sequence[BoundAttack],
    found: Sequence[Candidate],
    threat: ThreatModel,
    classes: int,
) -> Finding:
    """Whether gradients over three times the draws change nothing on a random model."""
    if not bench.facts.stochastic:
        says = "the model is not random"
        return Finding("more_draws", "not run", says, "adaptive", {})
    return _check_more("more_draws", "eot", bench, attacks, found, threat, classes)


def _check_more(
    check: str,
    word: str,
    bench: Bench,
    attacks: Sequence[BoundAttack],
    found: Sequence[Candidate],
    threat: ThreatModel,
    classes: int,
) -> Finding:
    """Whether the iterative attacks have converged in one of their efforts.

    That fewer images stand and that more do are two questions, each asked of McNemar's exact test
    at 2.5%: the one whose direction the accuracy has taken is answered.
    """
    able = [b for b in attacks if {"steps", word} <= set(settable(b.entry.obj))]
    name = {"steps": "steps", "eot": "draws per gradient"}[word]
    if not able:
        return Finding(check, "not run", f"no attack here takes steps and {name}", "adaptive", {})
    few = part_of(bench, RETRIED_IMAGES)
    n, texts = len(few.data), {b.text for b in able}
    known = [_first(c, n, few.draws) for c in found if c.attack in texts]
    once = _defended(few, known, classes)
    more = [few.attacked("adaptive", _scaled(b, word, 3), threat) for b in able]
    thrice = _defended(few, more, classes)
    before, after = once.mean(), thrice.mean()
    stood, stand = once.mean(1) > 0.5, thrice.mean(1) > 0.5
    p = mcnemar(stand, stood, "greater" if after > before else "less")
    says = f"with three times the {name} {after:.1%} of {n} images stand, before {before:.1%}"
    says += f" (one-sided p {p:.2g}, level {_LEVEL:.1%})"
    differs = p < _LEVEL and abs(after - before) > _FEW
    if differs and after > before:
        says += f"; more {name} help the defender, so the attack is led astray"
    elif differs:
        says += "; the attack had not converged, so the robust accuracy is an overstatement"
    evidence = {f"{word}_x1": float(before), f"{word}_x3": float(after), "p": p, "n": n}
    return Finding(check, _verdict(not differs), says, "adaptive", evidence)


def check_unbounded(
    bench: Bench, attacks: Sequence[BoundAttack], threat: ThreatModel, classes: int
) -> Finding:
    """Whether an attack that may show any image at all brings the accuracy to 0."""
    few, whole = part_of(bench), threat.unbounded(bench.data.outline)
    found = [few.attacked("adaptive", b, whole) for b in strongest(attacks)]
    stands = _defended(few, found, classes)
    share = wilson(float(stands.mean(1).sum()), len(few.data))
    says = f"with an unbounded change ({whole}) {share.value:.1%} of {share.n} images stand"
    if share.value > _FEW:
        says += "; the attack fails where success is certain, so it measures itself, not the model"
    evidence = {"standing": share.value, "low": share.low, "high": share.high, "n": share.n}
    return Finding("unbounded", _verdict(share.value <= _FEW), says, "adaptive", evidence)


def check_adaptive_is_stronger(
    static: NDArray[np.float64], adaptive: NDArray[np.float64]
) -> Finding:
    """Whether the attack that sees everything is at least as strong as the one that does not.

    That more images stand under it is asked of McNemar's exact test at 2.5%.

    Args:
        static: (N,) share of draws that stand under the worst static attack.
        adaptive: (N,) the same under the worst adaptive attack.
    """
    n = len(static)
    before, after = wilson(static.sum(), n), wilson(adaptive.sum(), n)
    p = mcnemar(adaptive > 0.5, static > 0.5, "greater")
    stronger = after.value <= before.value or p >= _LEVEL
    says = f"{after} stand under the adaptive attacks, {before} under the static ones"
    says += f" (one-sided p {p:.2g}, level {_LEVEL:.1%})"
    if not stronger:
        says += "; an attacker who knows more does worse, the sign of masked gradients"
    evidence = {"static": before.value, "adaptive": after.value, "p": p, "n": n}
    return Finding("adaptive_is_stronger", _verdict(stronger), says, "adaptive", evidence)
