"""Checks that tell whether a robust accuracy can be believed; each gives a finding.

After the checklist of Carlini et al. 2019 (arXiv:1902.06705, section 5), the flags of AutoAttack
(Croce & Hein 2020, arXiv:2003.01690) and the indicators of attack failure (Pintor et al. 2022,
arXiv:2106.09947). docs/checks/ has a page for each.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from redoubtable.evaluation.candidates import Bench, Candidate
from redoubtable.evaluation.checks import effort, model, rivals, traces
from redoubtable.evaluation.checks.case import Case, Finding
from redoubtable.evaluation.checks.case import part_of as part_of
from redoubtable.evaluation.plan import Plans
from redoubtable.evaluation.turns import all_of
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
        model.fixed_randomness,
        rivals.noise,
    )
}
"""In the order in which a reader would doubt."""

_ON_THEIR_OWN = (model.__name__, traces.__name__)
"""What these compute is in no journal, so they come last, when nothing can be in other hands."""


def findings(
    bench: Bench,
    plans: Plans,
    candidates: Sequence[Candidate],
    threat: ThreatModel,
    classes: int,
) -> list[dict[str, Any]]:
    """Return what every check found, as a record keeps it.

    Args:
        bench: the model and all of its examples.
        plans: the attacks that ran.
        candidates: what they found, the clean images first.
        threat: what the attacker may change.
        classes: K; the answer K is a rejection.

    Raises:
        TakenError: other processes are at work on some of the images.
    """
    case = Case(bench, plans, candidates, threat, classes)
    shared = [name for name, check in CHECKS.items() if check.__module__ not in _ON_THEIR_OWN]
    found = dict(zip(shared, all_of(partial(CHECKS[n], case) for n in shared), strict=True))
    found |= {name: CHECKS[name](case) for name in CHECKS if name not in found}
    return [found[name].as_dict() for name in CHECKS]
