"""Whether more effort would change the number, and whether enough is enough."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from redoubtable.attacks import ATTACKS
from redoubtable.evaluation.candidates import Candidate
from redoubtable.evaluation.cascade import carry
from redoubtable.evaluation.checks import stages
from redoubtable.evaluation.checks.case import (
    FEW,
    Case,
    Finding,
    part_of,
    passes_of,
    strongest,
    too_many,
    verdict,
)
from redoubtable.evaluation.outcomes import defended
from redoubtable.evaluation.plan import BoundAttack
from redoubtable.evaluation.turns import all_of
from redoubtable.registry import settable
from redoubtable.seeding import derive_seed
from redoubtable.statistics import wilson

_WORDS = {"steps": "steps", "eot": "draws per gradient", "restarts": "restarts"}


def _given(bound: BoundAttack, word: str) -> Any:
    """What an attack has of something, given or by default."""
    return bound.arguments.get(word, bound.entry.obj.__kwdefaults__[word])  # type: ignore[attr-defined]


def _scaled(bound: BoundAttack, word: str, factor: int) -> BoundAttack:
    """The attack with more of something; a step size that it leaves open shrinks with steps."""
    arguments = {**bound.arguments, word: factor * _given(bound, word)}
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

    That fewer images stand and that more do are two questions, each asked of the sign-flip test
    at 2.5% over all its stages: the one whose direction the accuracy has taken is answered. Without
    randomness the test is McNemar's.
    """
    able = [b for b in case.effort if {"steps", word} <= set(settable(b.entry.obj))]
    name = _WORDS[word]
    if not able:
        return Finding(check, "not run", f"no attack here takes steps and {name}", "adaptive", {})
    seen, passes = _compared(case, able, [_scaled(b, word, 3) for b in able])
    says = f"with three times the {name} {seen.after:.1%} of {seen.n} images stand, before "
    says += f"{seen.before:.1%} (one-sided p {seen.p:.2g}, level {seen.level:.1%}; a change of "
    says += f"{seen.notices:.0%} would be noticed nine times in ten)"
    if seen.differs and seen.after > seen.before:
        says += f"; more {name} help the defender, so the attack is led astray"
    elif seen.differs:
        says += "; the attack had not converged, so the robust accuracy is an overstatement"
    evidence = _single_step(case, able, seen.n) if word == "steps" else {}
    evidence |= {f"{word}_x1": seen.before, f"{word}_x3": seen.after}
    evidence |= {k: getattr(seen, k) for k in ("p", "level", "n", "stages", "of_stages", "notices")}
    return Finding(
        check, verdict(not seen.differs), says, "adaptive", evidence | {"passes": passes}
    )


def _single_step(case: Case, able: Sequence[BoundAttack], n: int) -> dict[str, Any]:
    """What a single step leaves of the same images, where the plan has one and all others agree."""
    single = [case.of(b) for b in case.effort if b.entry.name == "fgsm"]
    steps = {_given(b, "steps") for b in able}
    if not single or len(steps) > 1:
        return {}
    draws = case.few.draws
    left = case.tally(single, slice(n), draws).mean() / (2 * draws)
    return {f"steps_x1/{steps.pop()}": float(left)}


def _compared(
    case: Case, weaker: Sequence[BoundAttack], harder: Sequence[BoundAttack]
) -> tuple[stages.Comparison, int]:
    """Attack the first images harder until it is decided what that changes; and the passes."""
    few, whole = part_of(case.bench, stages.IMAGES[-1]), case.bench.facts.batch_dependent
    known, passes = [case.of(b) for b in weaker], 0

    def measure(rows: slice) -> tuple[stages.Counts, stages.Counts]:
        nonlocal passes
        spared = np.ones(len(few.data), dtype=bool)
        spared[rows] = False
        # Draws are named by chunk, and the stages of one chunk must not share theirs.
        seed = derive_seed("stage", few.settings.seed, rows.start)
        stage = replace(few, settings=replace(few.settings, seed=seed))
        # A part of a batch is another batch.
        fallen = None if whole else spared
        found = all_of(partial(stage.attacked, "adaptive", b, case.threat, fallen) for b in harder)
        passes += passes_of(found)
        return case.tally(known, rows, few.draws), case.tally(found, rows, few.draws)

    ends = stages.ends(len(few.data), whole)
    return stages.compare(ends, 2 * few.draws, measure, FEW), passes


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
    y, found, passes = few.data.y.numpy(), list[Candidate](), 0
    fallen: NDArray[np.bool_] | None = None
    for bound in sorted(strongest(case.effort), key=lambda b: b != case.leader):
        one = few.attacked("adaptive", bound, whole, fallen)
        passes += passes_of([one])
        found.append(carry(one, found[-1]) if found else one)
        if not case.bench.facts.batch_dependent:  # a part of a batch is another batch
            fallen = np.asarray(~defended(found[-1].selection, y, case.classes).any(1))
            if bool(fallen.all()):
                break
    share = wilson(float(case.shares(found, few).sum()), len(y))
    says = f"with an unbounded change ({whole}) {share.value:.1%} of {share.n} images stand"
    if share.value > FEW:
        says += "; the attack fails where success is certain, so it measures itself, not the model"
    evidence = {"standing": share.value, "low": share.low, "high": share.high, "n": share.n}
    evidence["passes"] = passes
    return Finding("unbounded", verdict(share.value <= FEW), says, "adaptive", evidence)


def monotone_in_eps(case: Case) -> Finding:
    """Whether what falls at half the radius has fallen at the radius too, to the same attack."""
    check, attack, eps = "monotone_in_eps", case.leader, case.threat.eps
    if attack is None:
        says = "no attack here follows gradients in steps"
        return Finding(check, "not run", says, "adaptive", {})
    # Half a count of pixels is a count of pixels.
    whole = case.threat.whole
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
