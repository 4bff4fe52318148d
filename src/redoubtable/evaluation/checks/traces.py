"""The paths of an attack, image by image: what it passed by, and whether it had come to rest."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from redoubtable.attacks import chosen
from redoubtable.evaluation.checks.case import Case, Finding, verdict
from redoubtable.evaluation.outcomes import defended, look
from redoubtable.evaluation.plan import BoundAttack
from redoubtable.gradients import fast_copy
from redoubtable.losses import aim, cross_entropy, evasion_margin, margin
from redoubtable.registry import settable
from redoubtable.seeding import seeded
from redoubtable.types import Images, Logits

TRACED = 8
"""How many of the images that stand are attacked again, one at a time."""
LATE = 0.1
"""The last part of a path."""
STILL_RISING = 0.05
"""The share of a path's whole rise that its last tenth may bring; a straight line brings 10%."""
_SHORTEST = 10


@dataclass(frozen=True)
class Trace:
    """One attack on one image that it does not bring down.

    Attributes:
        rise: (T,) the largest objective so far, of the legal images that the copy was shown.
        missed: whether one of them is misclassified by the true model, though what the attack
            returned is not.
        passes: what it took.
    """

    rise: NDArray[np.float64]
    missed: bool
    passes: int


def _traced(case: Case) -> tuple[str, list[Trace]]:
    """The attack that leaves the least, and its paths over images that it leaves."""
    attack = case.leader or case.effort[0]
    if case.bench.facts.stochastic or case.bench.facts.batch_dependent:
        return "", []
    if "traces" not in case.memory:
        stands = np.flatnonzero(case.standing([case.of(attack)], case.few))[:TRACED]
        case.memory["traces"] = [_trace(case, attack, i) for i in stands.tolist()]
    return attack.text, case.memory["traces"]


def _trace(case: Case, attack: BoundAttack, number: int) -> Trace:
    """Attack one image and look over the attack's shoulder."""
    device, settings = case.bench.device, case.bench.settings
    whole, labels = (t.to(device) for t in case.few.data.first(len(case.few.data)))
    x, y = whole[number : number + 1], labels[number : number + 1]
    shown: list[tuple[Images, Logits]] = []
    copy = fast_copy(case.bench.model, whole[:2], settings.precision)
    copy.register_forward_hook(lambda module, given, out: shown.append((given[0], out)))
    arguments = dict(attack.arguments)
    if "batch_size" in settable(attack.entry.obj):
        arguments.setdefault("batch_size", settings.batch_size)
    ball = case.threat.select(torch.tensor([number], device=device))
    with seeded("trace", settings.seed, number):
        arguments = chosen(arguments, case.bench.model, x, y)
        returned = attack.entry.obj(copy, x.clone(), y.clone(), ball, **arguments)
    images = torch.cat([images.detach() for images, _ in shown] or [x[:0]])
    passes = 2 * len(images) * case.bench.facts.passes
    alike = torch.full((len(images),), number, device=device)
    legal = case.threat.select(alike).contains(images, x.expand_as(images))
    if not legal.any():
        return Trace(np.zeros(0), False, passes)
    images, outs = images[legal], torch.cat([out.detach() for _, out in shown])[legal]
    own = margin if not case.bench.facts.abstains else evasion_margin
    targets = arguments.get("targets")
    values, rank = (
        aim(arguments.get(word, default), y, targets)(outs, alike[legal] * 0)
        for word, default in (("loss", cross_entropy), ("success", own))
    )
    best = int(rank.argmax())
    missed = _holds(case, returned, number) and not _holds(case, images[best][None], number)
    return Trace(np.maximum.accumulate(values.double().cpu().numpy()), missed, passes)


def _holds(case: Case, x: Images, number: int) -> bool:
    """Whether the true model's answer to a single image counts for the defender."""
    seen = look(case.bench.model, x, 1, 1, case.bench.facts.abstains)
    y = case.bench.data.y[number : number + 1].numpy()
    return bool(defended(seen.answers, y, case.classes).all())


def silent_success(case: Case) -> Finding:
    """Whether the attack passed by an image that succeeds and returned another one."""
    check = "silent_success"
    text, traces = _traced(case)
    if not traces:
        return Finding(check, "not run", _why_not(case), "adaptive", {"n": 0})
    missed, n = sum(t.missed for t in traces), len(traces)
    says = f"on {missed} of {n} images that stand, {text} was shown a success and returned another"
    if missed:
        says += " image; the attack must keep the best of what it finds, so its number is too high"
    evidence = {"missed": missed, "n": n, "passes": sum(t.passes for t in traces)}
    return Finding(check, verdict(missed == 0), says, "adaptive", evidence)


def incomplete_optimisation(case: Case) -> Finding:
    """Whether the objective is still rising where the attack ends."""
    check = "incomplete_optimisation"
    text, traces = _traced(case)
    paths = [t.rise for t in traces if len(t.rise) >= _SHORTEST]
    if not paths:
        says = "the attack takes too few steps for a path" if traces else _why_not(case)
        return Finding(check, "not run", says, "adaptive", {"n": 0})
    late = [_late(rise) for rise in paths]
    rising, n = sum(share > STILL_RISING for share in late), len(late)
    good = 2 * rising <= n
    says = (
        f"on {rising} of {n} images that stand, the last tenth of the path of {text} brings over "
    )
    says += f"{STILL_RISING:.0%} of the rise of its objective"
    if not good:
        says += "; the attack was stopped too early: give it more steps"
    evidence = {"rising": rising, "median_late_share": float(np.median(late)), "n": n}
    evidence["passes"] = sum(t.passes for t in traces)
    return Finding(check, verdict(good), says, "adaptive", evidence)


def _late(rise: NDArray[np.float64]) -> float:
    """The share of a path's whole rise that its last tenth brings."""
    whole = rise[-1] - rise[0]
    before = rise[-1 - max(1, round(LATE * len(rise)))]
    return float((rise[-1] - before) / whole) if whole > 0 else 0.0


def _why_not(case: Case) -> str:
    if case.bench.facts.stochastic or case.bench.facts.batch_dependent:
        return "single answers of a model that is random or sees its batch say nothing"
    return "no image stands whose path could be followed"
