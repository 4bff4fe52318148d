"""Whether attacks that know more, or try harder, find what the others find."""

from collections.abc import Sequence
from typing import Any

from redoubtable.attacks import ATTACKS
from redoubtable.evaluation.candidates import Candidate
from redoubtable.evaluation.checks.case import (
    FEW,
    Case,
    Finding,
    Stands,
    passes_of,
    too_many,
    verdict,
)
from redoubtable.evaluation.checks.stages import LEVEL
from redoubtable.evaluation.plan import BoundAttack, adaptive_plan
from redoubtable.registry import settable
from redoubtable.statistics import mcnemar, wilson

QUERIES = 100
"""Of the random search that is tried where no attack of the plan does without gradients."""
NOISE_DRAWS = 1000
NOISE_PASSES = 50_000
"""The bound on noise: on a model of many passes fewer images are shown all of the draws."""
_BLACK_BOX = ("score", "label")


def adaptive_is_stronger(case: Case) -> Finding:
    """Whether the attack that sees everything is at least as strong as the one that does not.

    That more images stand under it is asked of McNemar's exact test at 2.5%.
    """
    check = "adaptive_is_stronger"
    if not case.plans.static:
        says = "there is no defense that an attack could overlook"
        return Finding(check, "not run", says, "adaptive", {})
    clean = case.candidates[0]
    static, adaptive = (case.shares([clean, *case.seen(v)]) for v in ("static", "adaptive"))
    n = len(static)
    before, after = wilson(static.sum(), n), wilson(adaptive.sum(), n)
    p = mcnemar(adaptive > 0.5, static > 0.5, "greater")
    stronger = after.value <= before.value or p >= LEVEL
    says = f"{after} stand under the adaptive attacks, {before} under the static ones"
    says += f" (one-sided p {p:.2g}, level {LEVEL:.1%})"
    if not stronger:
        says += "; an attacker who knows more does worse, the sign of masked gradients"
    evidence = {"static": before.value, "adaptive": after.value, "p": p, "n": n, "passes": 0}
    return Finding(check, verdict(stronger), says, "adaptive", evidence)


def transfer_is_weaker(case: Case) -> Finding:
    """Whether images made without the model bring down what attacks on it do not, one by one."""
    check = "transfer_is_weaker"
    theirs = case.seen("static") + case.seen("adaptive", ["transfer"])
    ours = case.seen("adaptive", ["gradient", *_BLACK_BOX])
    if not theirs:
        says = "no images here were made for another network"
        return Finding(check, "not run", says, "adaptive", {})
    worse, only = case.beats(case.standing(theirs), case.standing(ours))
    n = len(case.bench.data)
    says = f"{only} of {n} images fall only to attacks that do not see the model"
    if worse:
        says += "; attacks on the model itself miss what a stranger finds, so they can be improved"
    return Finding(check, verdict(not worse), says, "adaptive", {"only": only, "n": n, "passes": 0})


def neighbours(case: Case) -> Finding:
    """Whether a model that depends on its batch falls to fewer adversarial neighbours, or to none.

    That fewer images stand in one of the other settings is asked of McNemar's exact test, at a
    level that they share.
    """
    check = "neighbours"
    if not case.neighbours:
        says = "the model answers each image by itself"
        return Finding(check, "not run", says, "adaptive", {})
    ours, level = case.shares(case.seen("adaptive")), LEVEL / len(case.neighbours)
    evidence: dict[str, Any] = {"all": float(ours.mean()), "n": len(ours), "passes": 0}
    weaker = []
    for setting, candidates in case.neighbours.items():
        theirs = case.shares([c for c in candidates if c.view == "adaptive"])
        p = mcnemar(theirs > 0.5, ours > 0.5, "less")
        evidence |= {setting: float(theirs.mean()), f"p_{setting}": p}
        if p < level and ours.mean() - theirs.mean() > FEW:
            weaker.append(setting)
    says = f"{evidence['all']:.1%} of {len(ours)} images stand in batches that are adversarial as a"
    says += " whole" + "".join(f", {evidence[s]:.1%} {s}" for s in case.neighbours)
    if weaker:
        says += f"; the attacker chooses the batch, so the number is that of {' and '.join(weaker)}"
    return Finding(check, verdict(not weaker), says, "adaptive", evidence)


def black_box_is_weaker(case: Case) -> Finding:
    """Whether attacks without gradients bring down what attacks with them do not, one by one."""
    check = "black_box_is_weaker"
    white = case.seen("adaptive", ["gradient"])
    if not white:
        return Finding(check, "not run", "no attack here follows gradients", "adaptive", {})
    black, passes = case.seen("adaptive", _BLACK_BOX), 0
    if black:
        ours = case.standing(white)
        # What a cascade carries along was found by those before.
        theirs = ~_first_found(case, black)
    else:
        ours = case.standing(white, case.few)
        theirs, passes = case.retried(_search(case), case.threat, ours)
    worse, only = case.beats(theirs, ours)
    n = len(ours)
    says = f"{only} of {n} images fall only to attacks that never ask for a gradient"
    if worse:
        says += "; the gradients are masked, or the attacks that follow them too weak"
    evidence = {"only": only, "n": n, "queries": 0 if black else QUERIES, "passes": passes}
    return Finding(check, verdict(not worse), says, "adaptive", evidence)


def _first_found(case: Case, candidates: Sequence[Candidate]) -> Stands:
    """(N,) which images fall to attacks that saw them."""
    fell = [~case.standing([c]) & ~c.carried for c in candidates]
    found: Stands = fell[0]
    for more in fell[1:]:
        found = found | more
    return found


def _search(case: Case) -> list[BoundAttack]:
    """A short random search under the threat."""
    texts = (f"square:queries={QUERIES}", f"sparse_rs:queries={QUERIES}", f"noise:draws={QUERIES}")
    fit = (t for t in texts if isinstance(case.threat, ATTACKS.bind(t).entry.facts["threats"]))
    return adaptive_plan(case.bench.model, [next(fit)], case.threat)


def iterative_is_stronger(case: Case) -> Finding:
    """Whether one step brings down what many steps do not, one by one."""
    check = "iterative_is_stronger"
    able = [
        b
        for b in case.effort
        if b.entry.facts["access"] == "gradient" and "steps" in settable(b.entry.obj)
    ]
    if not able:
        says = "no attack here follows gradients in steps"
        return Finding(check, "not run", says, "adaptive", {})
    one = [
        case.few.attacked("adaptive", b, case.threat)
        for b in adaptive_plan(case.bench.model, ["fgsm"], case.threat)
    ]
    many = case.standing([case.of(b) for b in able], case.few)
    worse, only = case.beats(case.standing(one, case.few), many)
    says = f"{only} of {len(many)} images fall to one step of the gradient and stand under many"
    if worse:
        says += "; many steps can do all that one does, so the iterative attack gets lost"
    evidence = {"only": only, "n": len(many), "passes": passes_of(one)}
    return Finding(check, verdict(not worse), says, "adaptive", evidence)


def noise(case: Case) -> Finding:
    """Whether a thousand random images of the ball bring down what the attacks do not."""
    passes = case.bench.facts.passes * NOISE_DRAWS
    stands = case.standing(case.seen("adaptive"), case.few)
    # As many of those that stand as there are passes for, at least one.
    shown = stands & (stands.cumsum() <= max(1, NOISE_PASSES // passes))
    n = int(shown.sum())
    if n == 0:
        says = "no image stands that noise could bring down"
        return Finding("noise", "not run", says, "adaptive", {"n": 0})
    # What counts as a success is the model's to say; one draw a look, or it would cost tenfold.
    bounds = adaptive_plan(case.bench.model, [f"noise:draws={NOISE_DRAWS},eot=1"], case.threat)
    left, spent = case.retried(bounds[:1], case.threat, shown)
    found = n - int(left.sum())
    bad = too_many(found, n)
    says = f"{NOISE_DRAWS:,} random changes bring down {found} of {n} images that the attacks leave"
    if bad:
        says += "; chance does better than the attacks, so they are broken"
    evidence = {"found": found, "n": n, "draws": NOISE_DRAWS, "passes": spent}
    return Finding("noise", verdict(not bad), says, "adaptive", evidence)
