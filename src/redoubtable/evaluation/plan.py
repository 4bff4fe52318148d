"""Which attacks to run, from a model's facts and from what its parts contribute."""

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import nn

from redoubtable.attacks import ATTACKS, SURROGATES, Attack, check_threat
from redoubtable.evaluation.suites import SUITES
from redoubtable.losses import LOSSES
from redoubtable.models import load_model
from redoubtable.parts import PLAIN, Facts, facts_of, parts_of
from redoubtable.registry import Bound, Entry, settable
from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Labels

BoundAttack = Bound[Attack]

SURROGATES.open = load_model  # attacks stand beside models and can't open one themselves

EOT_PASSES = 10
"""Network passes that one gradient of a random model is averaged over (Hosseini et al. 2019)."""

MOMENTUM = 0.9
"""Momentum against a random model: the steps before have seen other draws."""

VIEWS: tuple[Literal["static"], Literal["adaptive"]] = ("static", "adaptive")
"""What an attack may see: the bare model, or all of it."""

_LOSSES = ("loss=cross_entropy", "loss=margin")
"""Objectives where no part contributes one: their failures differ, so both are run."""


Choice = str | Attack
"""A suite, an attack as text, or a function of the form of an attack."""


@dataclass(frozen=True)
class Plans:
    """What is run.

    Attributes:
        static: attacks on the bare model; none where there is no defense.
        adaptive: attacks on the whole model.
        cascade: whether each sees only what stands after those before it. Of a random model that is
            what stands in any of its draws.
    """

    static: list[BoundAttack]
    adaptive: list[BoundAttack]
    cascade: bool


LEAST_DRAWS = 20
"""Of a cascade on a random model: what stands in one answer of ten stands in none of so many with a
probability of an eighth, and then counts as a tenth, which is what attacks might have found."""


def expand(
    attacks: Choice | Sequence[Choice], threat: ThreatModel, facts: Facts = PLAIN
) -> tuple[tuple[BoundAttack, ...], bool]:
    """Return the attacks of suites, or the given ones, and whether each sees only what stands.

    A suite's own cascade is for models without randomness whose answers are each image's own.

    Of a suite those attacks are taken that are meant for the threat and the model's facts; an
    attack that is named must support the threat.

    Raises:
        ValueError: there is no such suite and no such attack, there are none at all, or an attack
            does not support the threat.
    """
    single = isinstance(attacks, str) or callable(attacks)
    choices: Sequence[Choice] = [attacks] if single else attacks  # type: ignore[list-item,assignment]
    if not choices:
        raise ValueError(f"give at least one attack, or a suite: {', '.join(SUITES)}")
    found = [bound for choice in choices for bound in _expand(choice, threat, facts)]
    cascade = all(isinstance(c, str) and c in SUITES and SUITES[c].cascade for c in choices)
    plain = not (facts.stochastic or facts.batch_dependent)
    return tuple(_told_apart(found)), cascade and plain


def _expand(choice: Choice, threat: ThreatModel, facts: Facts) -> list[BoundAttack]:
    if not isinstance(choice, str):
        return [as_bound(choice)]
    if choice not in SUITES:
        name = choice.partition(":")[0].strip()
        if name not in ATTACKS:
            known = f"attacks: {', '.join(_names())}; suites: {', '.join(SUITES)}"
            close = difflib.get_close_matches(name, [*SUITES, *_names()], n=1)
            hint = f"did you mean {close[0]}? " if close else ""
            raise ValueError(f"unknown attack {choice!r}; {hint}{known}")
        return [_bind(choice, threat)]
    lines = SUITES[choice].against(facts, threat)
    if not lines:
        fit = [name for name, suite in SUITES.items() if suite.against(facts, threat)]
        raise ValueError(
            f"the suite {choice!r} has no attack under {threat.name}; take {', '.join(fit)}"
        )
    return [_bind(line, threat) for line in lines]


def _names() -> list[str]:
    return [attack.name for attack in ATTACKS]


def as_bound(attack: Attack) -> BoundAttack:
    """Return a function of the form of an attack as an entry that the evaluation can run.

    It runs as it is, under any threat. What its `name` attribute, else its Python name, says is
    what it is called; what its `access` attribute says is its access, else "gradient". Where it has
    a `digest` that says all that its results depend on, they are kept; what also says
    `asks_model = False` gives the same whatever model it is shown, and is looked at once.
    """
    name = str(getattr(attack, "name", None) or getattr(attack, "__name__", type(attack).__name__))

    def run(model: nn.Module, x: Images, y: Labels, threat: ThreatModel) -> Images:
        return attack(model, x, y, threat)

    facts = {"threats": (ThreatModel,), "access": getattr(attack, "access", "gradient")}
    facts["digest"] = getattr(attack, "digest", None)
    facts["asks_model"] = getattr(attack, "asks_model", True)
    return Bound(Entry(name, run, facts, ""), {}, name)


def registered(bound: BoundAttack) -> bool:
    """Whether an attack is one that its text names, so that the text says all of it."""
    name = bound.entry.name
    return name in ATTACKS and ATTACKS[name].obj is bound.entry.obj


def _told_apart(bounds: Sequence[BoundAttack]) -> list[BoundAttack]:
    """The attacks, those given as functions with names that no other one has."""
    taken = {entry.name for entry in ATTACKS} | {b.text for b in bounds if registered(b)}
    found = []
    for bound in bounds:
        if not registered(bound):
            names = (bound.text, *(f"{bound.text}#{i}" for i in range(2, len(bounds) + 3)))
            text = next(n for n in names if n not in taken)
            taken.add(text)
            bound = replace(bound, entry=replace(bound.entry, name=text), text=text)
        found.append(bound)
    return found


def static_plan(attacks: Sequence[str | BoundAttack], threat: ThreatModel) -> list[BoundAttack]:
    """Return attacks on the bare model, as written but for `stop`.

    An image that just crosses the bare model's boundary says nothing of the defended one, so a
    static attack takes all of its steps unless it says otherwise. It has no rejection either, so an
    attack whose losses need one has its own losses in their place, and no draws to average over or
    to make less random.
    """
    plan = {}
    for text in attacks:
        bound = _undefended(_bind(text, threat))
        if settable(bound.entry.obj).get("stop") is bool and "stop" not in bound.arguments:
            bound = _with(bound, {"stop": "False"})
        plan[bound.text] = bound
    return list(plan.values())


def adaptive_plan(
    model: nn.Module, attacks: Sequence[str | BoundAttack], threat: ThreatModel
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
            adapted = _with(bound, words)
            plan[adapted.text] = adapted
    return list(plan.values())


def _bind(attack: str | BoundAttack, threat: ThreatModel) -> BoundAttack:
    bound = ATTACKS.bind(attack) if isinstance(attack, str) else attack
    if registered(bound):
        check_threat(bound.entry.name, threat)
    return bound


def _with(bound: BoundAttack, words: Mapping[str, str]) -> BoundAttack:
    """The attack with more arguments."""
    if not words:
        return bound
    new = ",".join(f"{k}={v}" for k, v in words.items())
    return ATTACKS.bind(bound.text + ("," if ":" in bound.text else ":") + new)


def _undefended(bound: BoundAttack) -> BoundAttack:
    """The attack less losses that need a rejection, less draws and their size: no part is left."""
    names = {k: LOSSES.name_of(bound.arguments.get(k)) for k in ("loss", "success")}
    gone = {k for k, name in names.items() if name and LOSSES[name].facts["abstains"]}
    gone |= {"eot", "randomness"} & set(bound.arguments)
    if not gone:
        return bound
    left = {k: v for k, v in bound.arguments.items() if k not in gone}
    return replace(bound, arguments=left, text=ATTACKS.text(bound.entry.name, left))


def _only(objective: str, key: str) -> str:
    return ",".join(p for p in objective.split(",") if p.startswith(f"{key}="))
