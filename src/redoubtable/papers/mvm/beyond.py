"""Doubts: many masks at once, more draws and steps, false alarms, a seed that is known."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS
from redoubtable.defenses import Sampled, mvm_probabilities
from redoubtable.defenses.mvm import variance
from redoubtable.defenses.sampling import feature_maps
from redoubtable.defenses.sampling.units import MVM
from redoubtable.gradients import fast_copy
from redoubtable.papers.frame import Row
from redoubtable.papers.lab import Lab
from redoubtable.papers.mvm.adaptive import each_made, guard, itself, targets
from redoubtable.papers.mvm.scale import (
    SETTINGS,
    Sampling,
    best_of_mvm,
    sampled,
    threat_of,
)
from redoubtable.seeding import seeded
from redoubtable.statistics import Proportion, wilson
from redoubtable.threat import L2, ThreatModel
from redoubtable.types import Images, Labels, Logits

_RATE = 0.05


def carlini_wagner(lab: Lab[Sampling]) -> Iterator[Row]:
    """Many masks at once under L2, as dropout's doubt was beaten (Carlini & Wagner 2017).

    arXiv:1705.07263, section 4.1: 20 masks, 4 rounds of bisection, constant 1, confidence 1.
    """
    (x, y), steps = targets(lab), 5 * lab.scale.steps
    x, y = x[:20], y[:20]
    for name in lab.scale.attacked_on(lab.data):
        model = sampled(lab, SETTINGS[name])
        text = f"carlini_wagner:confidence=1,eot={2 * lab.scale.eot},search_steps=4,steps={steps}"
        bound, threat = ATTACKS.bind(text), L2(float("inf"))
        with torch.no_grad():
            aims = lab.network("natural")(x).topk(2).indices[:, 1]
        with seeded("attack", lab.seed, name):
            attack: Any = bound.entry.obj
            x_adv = attack(fast_copy(model, x[:2]), x, y, threat, targets=aims, **bound.arguments)
        fooled = _fooled(lab, guard(lab, model, _RATE), x_adv, y)
        size = threat.distance(x, x_adv).median().item()
        note = f"the attack knows the units; L2 distance {size:.2f} in the median, {text}"
        found = wilson(len(y) - int(fooled.sum()), len(y))
        yield Row(f"{name}, 5% false positives", "accuracy", "static", found, note=note)


def black_box(lab: Lab[Sampling]) -> Iterator[Row]:
    """What a search by scores leaves: no gradient, whose masking it would show."""
    x, y = targets(lab)
    x, y = x[:20], y[:20]
    queries = max(10, 5 * lab.scale.steps)
    for name in lab.scale.attacked_on(lab.data):
        model = guard(lab, sampled(lab, SETTINGS[name]), _RATE)
        found = lab.evaluation(
            f"{name}, black box", model, threat_of(lab.data), [f"square:queries={queries}"],
            images=(x, y), draws=1,
        )  # fmt: skip
        left = Proportion(**found.record["adaptive"]["accuracy"]["one_shot"])
        note = f"{queries} queries of {lab.scale.passes} passes each"
        yield Row(f"{name}, 5% false positives", "accuracy", "adaptive", left, note=note)


def masks(lab: Lab[Sampling]) -> Iterator[Row]:
    """Whether gradients over more draws find more."""
    few = lab.scale.eot
    for eot in (1, few, 3 * few, 10 * few):
        yield _converged(lab, "draws in each gradient", eot, eot, lab.scale.steps)


def steps(lab: Lab[Sampling]) -> Iterator[Row]:
    """Whether more steps find more."""
    for times in (1, 2, 4):
        count = times * lab.scale.steps
        yield _converged(lab, "steps", count, lab.scale.eot, count)


def _converged(lab: Lab[Sampling], series: str, at: int, eot: int, steps: int) -> Row:
    """What attacks on one draw of MVM leave of the guard, at 5% false positives."""
    x, y = targets(lab)
    x, y = x[:100], y[:100]
    model, threat = sampled(lab, SETTINGS[best_of_mvm(lab.data)]), threat_of(lab.data)
    text = f"pgd:loss=carlini_wagner_5,eot={eot},momentum=0.9,steps={steps},targets=runner_up"
    draw = lab.evaluation(
        f"one draw, {text}", model, threat, [text], images=(x, y), keep=len(x), draws=2
    )
    (made,) = each_made(x, draw, "one draw")
    judged = guard(lab, model, _RATE)
    x_adv = made(judged, x, y, threat)
    left = wilson(len(y) - int(_fooled(lab, judged, x_adv, y).sum()), len(y))
    return Row(series, "accuracy", "static", left, at, draws=1, note="the attack knows the units")


def _fooled(lab: Lab[Sampling], model: nn.Module, x: Images, y: Labels) -> Tensor:
    """(N,) which images a guard accepts with another label, in one fresh look."""
    with torch.no_grad(), seeded("look", lab.seed):
        answers = torch.cat([model(part).argmax(1) for part in torch.split(x, 50)])
    classes = lab.images("test", 1).classes
    return (answers != y) & (answers != classes)


def false_alarms(lab: Lab[Sampling]) -> Iterator[Row]:
    """An attack that only wants clean images to be refused: it makes sampling as noisy as it can.

    It raises the units' expected squared differences, through the probabilities' own derivative.
    """
    x, y = targets(lab)
    name = best_of_mvm(lab.data)
    model = sampled(lab, SETTINGS[name], derivative="implicit")
    judged = guard(lab, model, _RATE)
    for part in (0.0, 0.1, 0.25, 0.5):
        threat = type(threat_of(lab.data))(max(part * float(threat_of(lab.data).eps), 1e-6))
        x_adv = suppress(model, x, threat, lab.scale.steps) if part else x
        with torch.no_grad(), seeded("look", lab.seed):
            answers = torch.cat([judged(p).argmax(1) for p in torch.split(x_adv, 50)])
            plain = torch.cat([lab.network("natural")(p).argmax(1) for p in torch.split(x_adv, 50)])
        refused = int((answers == lab.images("test", 1).classes).sum())
        note = f"the network without units is right on {(plain == y).double().mean():.1%}"
        yield Row(name, "accepted", "adaptive", wilson(len(y) - refused, len(y)), part, note=note)


def suppress(model: nn.Module, x: Images, threat: ThreatModel, steps: int) -> Images:
    """Return images on which the units of a network are as noisy as the budget allows.

    Raises the sum over the units of sum a (1/pi - 1) / sum a, by steps of 2.5 eps / steps.
    """
    assert isinstance(model, Sampled) and isinstance(model.unit, MVM)
    x_adv, places = x.clone(), x.shape[2:].numel()
    for _ in range(steps):
        images = x_adv.detach().requires_grad_()
        noise = torch.zeros(len(x))
        for maps in feature_maps(model.network, images):
            energies = maps.square().sum(1).flatten(1)
            c = model.unit.draws_on(energies.shape[1], places)
            p = mvm_probabilities(energies, c)
            noise = noise + variance(energies, p, c) / energies.sum(1).clamp_min(1e-12)
        (slope,) = torch.autograd.grad(noise.sum(), images)
        step = threat.ascent(slope, x_adv, x, threat.default_step(steps))
        x_adv = threat.project(x_adv + step, x)
    return x_adv


class SameDraws(nn.Module):
    """A random model whose generator starts anew for each image: its draws can be known.

    It is no part, so its facts stay those of the random model inside and it is attacked like that.

    Args:
        model: a random model.
        seed: of its draws.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        self.model = model
        self.seed = seed

    def forward(self, x: Images) -> Logits:
        """Return what the model answers to each image alone, under the same random state."""
        found = []
        for image in torch.split(x, 1):
            with seeded("known", self.seed):
                found.append(self.model(image))
        return torch.cat(found)


def leaked_seed(lab: Lab[Sampling]) -> Iterator[Row]:
    """What a guard is worth whose seed is known, beside the same attack on fresh draws."""
    x, y = targets(lab)
    x, y = x[:50], y[:50]
    best = best_of_mvm(lab.data)
    judged: Any = guard(lab, sampled(lab, SETTINGS[best]), _RATE)
    for name, model in {"fresh draws": judged, "a known seed": SameDraws(judged, lab.seed)}.items():
        found = lab.evaluation(
            f"{best}, {name}", model.eval(), threat_of(lab.data), [itself(lab)],
            images=(x, y), draws=1,
        )  # fmt: skip
        robust = Proportion(**found.record["adaptive"]["accuracy"]["one_shot"])
        yield Row(f"{best}, {name}", "accuracy", "adaptive", robust, draws=lab.scale.passes)
