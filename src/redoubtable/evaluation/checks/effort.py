"""Whether more effort would change the number, and whether enough is enough."""

from dataclasses import replace

import numpy as np
import torch

from redoubtable.attacks import ATTACKS
from redoubtable.evaluation.checks.case import (
    FEW,
    LEVEL,
    Case,
    Finding,
    part_of,
    passes_of,
    strongest,
    too_many,
    verdict,
)
from redoubtable.evaluation.plan import BoundAttack
from redoubtable.registry import settable
from redoubtable.statistics import mcnemar, wilson

RETRIED_IMAGES = 133
"""How many of the first images are attacked with three times the effort. What the evaluation found
with the effort once is known, so this costs as much as attacking a hundred with both."""
_WORDS = {"steps": "steps", "eot": "draws per gradient", "restarts": "restarts"}


def _scaled(bound: BoundAttack, word: str, factor: int) -> BoundAttack:
    """The attack with more of something; a step size that it leaves open shrinks with steps."""
    default = bound.entry.obj.__kwdefaults__[word]  # type: ignore[attr-defined]
    arguments = {**bound.arguments, word: factor * bound.arguments.get(word, default)}
    return ATTACKS.bind(ATTACKS.text(bound.entry.name, arguments))


def more_steps(case: Case) -> Finding:
    """Whether three times the steps change nothing; they must never help the defender."""
    return _more("more_steps", "steps", case)


def more_draws(case: Case) -> Finding:
    """Whether gradients over three times the draws change nothing on a random model."""
    if not case.bench.facts.stochastic:
        return Finding("more_draws", "not run", "the model is not random", "adaptive", {})
    return _more("more_draws", "eot", case)


def _more(check: str, word: str, case: Case) -> Finding:
    """Whether the iterative attacks have converged in one of their efforts.

    That fewer images stand and that more do are two questions, each asked of McNemar's exact test
    at 2.5%: the one whose direction the accuracy has taken is answered.
    """
    able = [b for b in case.effort if {"steps", word} <= set(settable(b.entry.obj))]
    name = _WORDS[word]
    if not able:
        return Finding(check, "not run", f"no attack here takes steps and {name}", "adaptive", {})
    few = part_of(case.bench, RETRIED_IMAGES)
    n = len(few.data)
    once = case.shares([case.of(b) for b in able], few)
    more = [few.attacked("adaptive", _scaled(b, word, 3), case.threat) for b in able]
    thrice = case.shares(more, few)
    before, after = once.mean(), thrice.mean()
    p = mcnemar(thrice > 0.5, once > 0.5, "greater" if after > before else "less")
    says = f"with three times the {name} {after:.1%} of {n} images stand, before {before:.1%}"
    says += f" (one-sided p {p:.2g}, level {LEVEL:.1%})"
    differs = p < LEVEL and abs(after - before) > FEW
    if differs and after > before:
        says += f"; more {name} help the defender, so the attack is led astray"
    elif differs:
        says += "; the attack had not converged, so the robust accuracy is an overstatement"
    evidence = {f"{word}_x1": float(before), f"{word}_x3": float(after), "p": p, "n": n}
    evidence["passes"] = passes_of(more)
    return Finding(check, verdict(not differs), says, "adaptive", evidence)


def more_restarts(case: Case) -> Finding:
    """Whether three times the random starts of the strongest attack find nothing new."""
    check, able = "more_restarts", case.leader
    if able is None or "restarts" not in settable(able.entry.obj):
        says = "the strongest attack that takes steps has no restarts"
        return Finding(check, "not run", says, "adaptive", {})
    stands = case.standing(case.seen("adaptive"), case.few)
    left, passes = case.retried([_scaled(able, "restarts", 3)], case.threat, stands)
    found, n = int(stands.sum() - left.sum()), len(stands)
    bad = too_many(found, n)
    says = (
        f"three times the restarts of {able.text} bring down {found} of the {stands.sum()} images"
    )
    says += f" that stand, of {n}"
    if bad:
        says += "; where an attack starts decides, so the robust accuracy is an overstatement"
    evidence = {"found": found, "standing": int(stands.sum()), "n": n, "passes": passes}
    return Finding(check, verdict(not bad), says, "adaptive", evidence)


def unbounded(case: Case) -> Finding:
    """Whether an attack that may show any image at all brings the accuracy to 0."""
    few, whole = case.few, case.threat.unbounded(case.bench.data.outline)
    found = [few.attacked("adaptive", b, whole) for b in strongest(case.effort)]
    share = wilson(float(case.shares(found, few).sum()), len(few.data))
    says = f"with an unbounded change ({whole}) {share.value:.1%} of {share.n} images stand"
    if share.value > FEW:
        says += "; the attack fails where success is certain, so it measures itself, not the model"
    evidence = {"standing": share.value, "low": share.low, "high": share.high, "n": share.n}
    evidence["passes"] = passes_of(found)
    return Finding("unbounded", verdict(share.value <= FEW), says, "adaptive", evidence)


def monotone_in_eps(case: Case) -> Finding:
    """Whether what falls at half the radius has fallen at the radius too, to the same attack."""
    check, attack, eps = "monotone_in_eps", case.leader, case.threat.eps
    if attack is None:
        says = "no attack here follows gradients in steps"
        return Finding(check, "not run", says, "adaptive", {})
    # Half a count of pixels is a count of pixels.
    whole = case.threat.name == "L0"
    half = eps / 2 if isinstance(eps, torch.Tensor) else eps // 2 if whole else eps / 2
    if not (half.min() if isinstance(half, torch.Tensor) else half) > 0:
        return Finding(check, "not run", "half of the radius is none", "adaptive", {})
    smaller = replace(case.threat, eps=half)
    stands = case.standing([case.of(attack)], case.few)
    left, passes = case.retried([attack], smaller, stands)
    found, n = int(stands.sum() - left.sum()), len(stands)
    bad = too_many(found, n)
    says = f"{found} of {n} images fall to {attack.text} at half the radius and stand at all of it"
    if bad:
        says += "; a larger radius allows all that a smaller one does, so the attack gets lost"
    evidence = {"found": found, "standing": int(np.sum(stands)), "n": n, "passes": passes}
    return Finding(check, verdict(not bad), says, "adaptive", evidence)
