"""Checks that tell whether a robust accuracy can be believed; each gives a finding.

After the checklist of Carlini et al. 2019 (arXiv:1902.06705, section 5), the flags of AutoAttack
(Croce & Hein 2020, arXiv:2003.01690) and the indicators of attack failure (Pintor et al. 2022,
arXiv:2106.09947). docs/checks/ has a page for each.
"""

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np

from redoubtable.evaluation.candidates import Bench
from redoubtable.evaluation.checks import effort, model, rivals, stages, traces
from redoubtable.evaluation.checks.case import Case as Case
from redoubtable.evaluation.checks.case import Finding, strongest
from redoubtable.evaluation.checks.case import count_of as count_of
from redoubtable.evaluation.checks.case import part_of as part_of
from redoubtable.evaluation.environment import hardware
from redoubtable.evaluation.journal import Arrays
from redoubtable.evaluation.plan import Plans, adaptive_plan, registered
from redoubtable.evaluation.turns import all_of
from redoubtable.files import digest_source_files
from redoubtable.registry import settable
from redoubtable.threat import ThreatModel

Check = Callable[[Case], Finding]

CHECKS: Mapping[str, Check] = {
    check.__name__: check
    for check in (
        model.randomness,
        model.gradients,
        model.uphill,
        model.logits,
        model.inner_gradients,
        traces.silent_success,
        traces.incomplete_optimisation,
        effort.more_steps,
        effort.more_restarts,
        effort.more_draws,
        effort.monotone_in_eps,
        effort.unbounded,
        rivals.iterative_is_stronger,
        rivals.black_box_is_weaker,
        rivals.adaptive_is_stronger,
        rivals.transfer_is_weaker,
        rivals.neighbours,
        model.fixed_randomness,
        rivals.noise,
    )
}
"""In the order in which a reader would doubt."""

CHEAP = (
    "randomness",
    "gradients",
    "uphill",
    "logits",
    "inner_gradients",
    "black_box_is_weaker",
    "adaptive_is_stronger",
    "transfer_is_weaker",
    "neighbours",
)
"""Those that attack nothing anew, where the plan has an attack without gradients."""

_ON_THEIR_OWN = (model.__name__, traces.__name__)
"""What these compute is no chunk of an attack, so their findings are kept as they are."""


def asked(check: bool | Collection[str]) -> Collection[str]:
    """Return the names of the checks that are asked for.

    Args:
        check: all, none, or their names.

    Raises:
        ValueError: there is no such check.
    """
    if isinstance(check, bool):
        return tuple(CHECKS) if check else ()
    names = (check,) if isinstance(check, str) else tuple(check)
    for name in names:
        if name not in CHECKS:
            raise ValueError(f"no check {name!r}; there are {', '.join(CHECKS)}")
    return names


def findings(case: Case, names: Collection[str]) -> list[dict[str, Any]]:
    """Return what the checks found, as a record keeps it.

    Args:
        case: what is doubted.
        names: of the checks that run; of the others it is said that they did not.

    Raises:
        TakenError: other processes are at work on some of the images.
    """
    # Chunks first: an interruption then costs one of them, and not a whole check.
    order = sorted(names, key=lambda name: CHECKS[name].__module__ in _ON_THEIR_OWN)
    found = dict(zip(order, all_of(partial(_found, case, name) for name in order), strict=True))
    left_out = Finding("", "not run", "not asked for here", "adaptive", {})
    return [found.get(name) or replace(left_out, check=name).as_dict() for name in CHECKS]


def expected(bench: Bench, plans: Plans, threat: ThreatModel, names: Collection[str]) -> int:
    """Return how many chunks the checks attack at most; some end early or find nothing to do."""
    if set(names) <= set(CHEAP):
        return 0
    case = Case(bench, plans, [], threat, 0)
    once = [b for b in case.effort if "steps" in settable(b.entry.obj)]
    drawn = [b for b in once if "eot" in settable(b.entry.obj)] if bench.facts.stochastic else []
    retried = count_of(bench, stages.IMAGES[-1])
    parts = len(stages.ends(retried, bench.facts.batch_dependent))
    parts *= math.ceil(retried / bench.data.length)
    steps = len(adaptive_plan(bench.model, ["fgsm"], threat)) if once else 0
    # Restarts, half the radius, a search and noise are one attack each.
    few = math.ceil(count_of(bench) / bench.data.length)
    few *= 4 + steps + len(strongest(case.effort))
    return parts * (len(once) + len(drawn)) + few


def _found(case: Case, name: str) -> dict[str, Any]:
    """A check's finding, out of the journal if it is there."""
    check, bench = CHECKS[name], case.bench
    attacks = [*case.plans.static, *case.plans.adaptive]
    # The settings of a function that was given can't be named, so nothing of it is kept.
    if check.__module__ not in _ON_THEIR_OWN or not all(map(registered, attacks)):
        return check(case).as_dict()
    key = {
        "check": name,
        "code": [bench.code, digest_source_files(check)],
        "model": bench.digest,
        "device": hardware(bench.device),
        "data": bench.data.digests,
        "attacks": [[b.text for b in view] for view in (case.plans.static, case.plans.adaptive)],
        "cascade": case.plans.cascade,
        "threat": case.threat.key,
        "settings": vars(bench.settings),
    }

    def compute() -> Arrays:
        text = json.dumps(check(case).as_dict())
        return {"finding": np.frombuffer(text.encode(), dtype=np.uint8)}

    found: dict[str, Any] = json.loads(bench.journal.cell(key, compute)["finding"].tobytes())
    return found
