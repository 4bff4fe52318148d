"""Which attacks to run, from a model's facts and from what its parts contribute."""

import difflib
from collections.abc import Mapping, Sequence

from torch import nn

from redoubtable.attacks import ATTACKS, Attack, check_threat
from redoubtable.parts import facts_of, parts_of
from redoubtable.registry import Bound, settable
from redoubtable.threat import ThreatModel

BoundAttack = Bound[Attack]

SUITES: Mapping[str, tuple[str, ...]] = {
    "quick": ("fgsm", "pgd:steps=10"),
    "adaptive": ("fgsm", "pgd:restarts=2"),
}
"""Attacks by suite. A static attack runs as written; the adaptive form of an attack adds what the
model's facts and parts ask for."""

EOT_PASSES = 10
"""Network passes that one gradient of a random model is averaged over (Hosseini et al. 2019)."""

MOMENTUM = 0.9
"""Momentum against a random model: the steps before have seen other draws."""

_LOSSES = ("loss=cross_entropy", "loss=margin")
"""Objectives where no part contributes one: their failures differ, so both are run."""


def expand(attacks: str | Sequence[str]) -> tuple[str, ...]:
    """Return the attacks of a suite, or the given ones.

    Raises:
        ValueError: there is no such suite and no such attack, or there are none at all.
    """
    if isinstance(attacks, str):
        if attacks not in SUITES and attacks.partition(":")[0] not in ATTACKS:
            known = f"attacks: {', '.join(_names())}; suites: {', '.join(SUITES)}"
            close = difflib.get_close_matches(attacks.partition(":")[0], [*SUITES, *_names()], n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(f"unknown attack {attacks!r}; {hint}{known}")
        return SUITES.get(attacks) or (ATTACKS.bind(attacks).text,)
    if not attacks:
        raise ValueError(f"give at least one attack, or a suite: {', '.join(SUITES)}")
    return tuple(a for text in attacks for a in expand(text))


def _names() -> list[str]:
    return [attack.name for attack in ATTACKS]


def static_plan(attacks: Sequence[str], threat: ThreatModel) -> list[BoundAttack]:
    """Return attacks on the bare model, as written but for `stop`.

    An image that just crosses the bare model's boundary says nothing of the defended one, so a
    static attack takes all of its steps unless it says otherwise.
    """
    plan = {}
    for text in attacks:
        bound = _bind(text, threat)
        if settable(bound.entry.obj).get("stop") is bool and "stop" not in bound.arguments:
            bound = ATTACKS.bind(_with(bound, {"stop": "False"}))
        plan[bound.text] = bound
    return list(plan.values())


def adaptive_plan(
    model: nn.Module, attacks: Sequence[str], threat: ThreatModel
) -> list[BoundAttack]:
    """Return attacks on the whole model.

    Each attack runs once per objective that the parts contribute (else once with cross-entropy and
    once with the margin), unless it names its loss; against a random model its gradients are
    averaged over draws, and with momentum over steps, unless it says otherwise.
    """
    facts = facts_of(model)
    asked = dict.fromkeys(o for part in parts_of(model) for o in part.objectives())
    plan = {}
    for text in attacks:
        bound = _bind(text, threat)
        extras: Sequence[str] = tuple(asked) or _LOSSES
        takes = settable(bound.entry.obj)
        if "loss" in bound.arguments or "loss" not in takes:
            # The user's loss stands; what counts as a success is still the model's to say.
            extras = [_only(o, "success") for o in extras]
        for extra in dict.fromkeys(extras):
            words = dict(p.split("=", 1) for p in extra.split(",") if p)
            if facts.stochastic:
                words["eot"] = str(max(1, EOT_PASSES // facts.passes))
                words["momentum"] = str(MOMENTUM)
            words = {k: v for k, v in words.items() if k in takes and k not in bound.arguments}
            adapted = ATTACKS.bind(_with(bound, words))
            plan[adapted.text] = adapted
    return list(plan.values())


def _bind(text: str, threat: ThreatModel) -> BoundAttack:
    bound = ATTACKS.bind(text)
    check_threat(bound.entry.name, threat)
    return bound


def _with(bound: BoundAttack, words: Mapping[str, str]) -> str:
    """The text of an attack with more arguments."""
    new = ",".join(f"{k}={v}" for k, v in words.items())
    return bound.text + (new and ("," if ":" in bound.text else ":") + new)


def _only(objective: str, key: str) -> str:
    return ",".join(p for p in objective.split(",") if p.startswith(f"{key}="))
