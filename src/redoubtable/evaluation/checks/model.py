"""Whether the model is what it says, and whether its gradients are worth following."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from redoubtable.attacks import chosen
from redoubtable.evaluation.checks.case import (
    CHECKED_IMAGES,
    FEW,
    Case,
    Finding,
    follows_gradients,
    too_many,
    verdict,
)
from redoubtable.evaluation.checks.stages import LEVEL
from redoubtable.evaluation.passes import counted
from redoubtable.gradients import input_gradient, mean_logits
from redoubtable.losses import LOSSES, Objective, aim, cross_entropy
from redoubtable.parts import Facts, Part, facts_of
from redoubtable.registry import settable
from redoubtable.seeding import seeded
from redoubtable.statistics import mcnemar, wilson
from redoubtable.types import Images, Labels, Logits, Loss

UPHILL = 0.75
"""The least share of images whose loss a step along the gradient must raise. A useless gradient
raises half of them."""
_ROUNDING = 1000
"""How many units of rounding must lie between the two largest logits of a typical image."""


def _images(case: Case) -> tuple[Images, Labels]:
    """The first images and labels, where the model lives."""
    x, y = case.bench.data.first(CHECKED_IMAGES)
    return x.to(case.bench.device), y.to(case.bench.device)


def randomness(case: Case) -> Finding:
    """Whether two looks at the same images differ exactly when the model says it is random."""
    x, _ = _images(case)
    model, passes = case.bench.model, 2 * len(x) * case.bench.facts.passes
    with torch.no_grad(), seeded("randomness", case.bench.settings.seed):
        differ = (model(x) != model(x)).any(1).float().mean().item()
    stated = case.bench.facts.stochastic
    says = f"the model says it is {'random' if stated else 'deterministic'}; two passes over the "
    says += f"same {len(x)} images differ on {differ:.0%}"
    if differ and not stated:
        says += "; state `stochastic=True`, or its robustness is one lucky draw"
    evidence = {"stated": stated, "differing": differ, "n": len(x), "passes": passes}
    return Finding("randomness", verdict((differ > 0) == stated), says, "clean", evidence)


def _losses(case: Case) -> set[Loss]:
    """What the gradient attacks raise."""
    attacks = [b for b in case.plans.adaptive if follows_gradients(b)]
    return {b.arguments.get("loss", cross_entropy) for b in attacks}


def gradients(case: Case) -> Finding:
    """Whether the gradients that the attacks follow are there at all."""
    x, y = _images(case)
    losses = _losses(case)
    names = sorted(LOSSES.name_of(loss) or repr(loss) for loss in losses)
    if not losses:
        says = "no attack here follows gradients"
        return Finding("gradients", "not run", says, "adaptive", {"n": 0})
    dead = torch.ones(len(x), dtype=torch.bool, device=x.device)
    try:
        for loss in losses:
            slope = _gradient(case, x, aim(loss, y, None), 1)
            useless = (slope == 0) | ~slope.isfinite()
            dead &= useless.flatten(1).all(1)
    except ValueError as error:
        return Finding("gradients", "fail", str(error), "adaptive", {"n": len(x)})
    share = dead.float().mean().item()
    says = f"{share:.0%} of {len(x)} images have a gradient of zero or NaN under every loss used"
    if share > FEW:
        says += "; gradient attacks are blind there: name a surrogate or attack without gradients"
    evidence = {"zero": share, "n": len(x), "losses": names}
    evidence["passes"] = 2 * len(losses) * len(x) * case.bench.facts.passes
    return Finding("gradients", verdict(share <= FEW), says, "adaptive", evidence)


def _batch(case: Case) -> int:
    return max(1, case.bench.settings.batch_size // case.bench.facts.passes)


def _gradient(case: Case, x: Images, objective: Objective, eot: int) -> Tensor:
    """The gradient that an attack sees."""
    with seeded("gradients", case.bench.settings.seed):
        slope = input_gradient(case.bench.model, x, objective, eot=eot, batch_size=_batch(case))
    return slope.gradient


def uphill(case: Case) -> Finding:
    """Whether a small step along the gradient raises the loss more than one against it.

    An eighth of the radius, as in the attacks, so that what a surrogate smooths counts as well.
    """
    x, y = _images(case)
    losses = sorted(_losses(case), key=lambda loss: LOSSES.name_of(loss) or repr(loss))
    if not losses:
        says = "no attack here follows gradients"
        return Finding("uphill", "not run", says, "adaptive", {"n": 0})
    draws = max(1, 10 // case.bench.facts.passes) if case.bench.facts.stochastic else 1
    try:
        risen = [_rises(case, x, aim(loss, y, None), draws) for loss in losses]
    except ValueError as error:
        return Finding("uphill", "fail", str(error), "adaptive", {"n": len(x)})
    # The best of the losses: one that points somewhere is enough to follow.
    shares = [wilson(int(up.sum()), len(up)) for up in risen if len(up)]
    if not shares:
        says = "there is no gradient to step along"
        return Finding("uphill", "not run", says, "adaptive", {"n": 0})
    share = max(shares, key=lambda one: one.low)
    good = share.high >= UPHILL
    says = f"a small step along the gradient raises the loss of {share} of {share.n} images more "
    says += f"than one against it (a useless gradient: 50%, asked: {UPHILL:.0%})"
    if not good:
        says += "; the gradients are shattered: name a surrogate or attack without gradients"
    passes = 4 * draws * len(losses) * len(x) * case.bench.facts.passes
    evidence = {"rising": share.value, "low": share.low, "high": share.high, "n": share.n}
    evidence |= {"draws": draws, "passes": passes}
    return Finding("uphill", verdict(good), says, "adaptive", evidence)


def _rises(case: Case, x: Images, objective: Objective, draws: int) -> Tensor:
    """(M,) whether the step helps, of the images that have a gradient."""
    every = torch.arange(len(x), device=x.device)
    ball = case.threat.select(every)
    slope = _gradient(case, x, objective, draws)
    values = []
    for direction in (slope, -slope):
        moved = ball.project(x + ball.ascent(direction, x, x, ball.default_step(20)), x)
        # The same draws on both sides: what is left is the step.
        with seeded("uphill", case.bench.settings.seed):
            out = mean_logits(case.bench.model, moved, eot=draws, batch_size=_batch(case))
        values.append(objective(out, every))
    there = (slope != 0).flatten(1).any(1) & slope.isfinite().flatten(1).all(1)
    return (values[0] > values[1])[there]


def logits(case: Case) -> Finding:
    """Whether the outputs are logits, and far enough apart for floating point to tell them."""
    x, _ = _images(case)
    with torch.no_grad(), seeded("logits", case.bench.settings.seed):
        out = torch.cat([case.bench.model(part) for part in torch.split(x, _batch(case))])
    out = out[:, : case.classes].double()
    sums = bool(((out >= 0) & (out <= 1)).all() and ((out.sum(1) - 1).abs() < 1e-4).all())
    top = out.topk(2, 1).values if case.classes > 1 else torch.cat([out, out - 1], 1)
    unit = torch.finfo(x.dtype).eps * out.abs().amax(1).clamp_min(torch.finfo(x.dtype).tiny)
    gap = ((top[:, 0] - top[:, 1]) / unit).median().item()
    flat = gap < _ROUNDING
    says = f"the outputs of {len(x)} images are {'probabilities' if sums else 'no probabilities'}, "
    says += f"and the two largest are typically {gap:.3g} units of rounding apart"
    if sums:
        says += "; return logits, as a second softmax hides the gradient"
    elif flat:
        says += "; the logits are too alike for gradients in floating point: take a constant off"
    evidence = {"probabilities": sums, "units": gap, "n": len(x)}
    evidence["passes"] = len(x) * case.bench.facts.passes
    return Finding("logits", verdict(not (sums or flat)), says, "adaptive", evidence)


def inner_gradients(case: Case) -> Finding:
    """Whether the model computes gradients of its own while it answers.

    Under `no_grad` nothing is kept for a backward pass unless somebody switches gradients on.
    """
    x, _ = _images(case)
    kept = 0

    def keep(value: Tensor) -> Tensor:
        nonlocal kept
        kept += 1
        return value

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value)
    with hooks, torch.no_grad(), seeded("inner gradients", case.bench.settings.seed):
        case.bench.model(x[:2].clone())
    says = f"the model computes {'' if kept else 'no '}gradients while it answers"
    good = not kept or uphill(case).verdict == "pass"
    if kept and good:
        says += ", and those that the attacks follow point uphill all the same"
    elif kept:
        says += "; the attacks do not see through them: differentiate through them, or do without"
    evidence = {"kept": kept, "n": 2, "passes": 2 * case.bench.facts.passes}
    return Finding("inner_gradients", verdict(good), says, "adaptive", evidence)


class _Frozen(Part):
    """A random model that draws the same in every pass over the same images.

    The draws of an image go by its place in the batch, so the batch stays together.
    """

    def __init__(self, model: nn.Module, seed: int) -> None:
        super().__init__()
        # In a tuple it is no submodule, whose facts would count as well.
        self._inside = (model,)
        self._seed = seed

    @property
    def facts(self) -> Facts:
        return replace(facts_of(self._inside[0]), stochastic=False, batch_dependent=True)

    def forward(self, x: Images) -> Logits:
        with seeded("frozen", self._seed):
            out: Logits = self._inside[0](x)
        return out

    def undefended(self) -> nn.Module:
        return self._inside[0]


def fixed_randomness(case: Case) -> Finding:
    """Whether a random model is at least as easy to attack once its draws are fixed."""
    check, attack = "fixed_randomness", case.leader
    if not case.bench.facts.stochastic or attack is None:
        says = "the model is not random" if attack else "no attack here follows gradients in steps"
        return Finding(check, "not run", says, "adaptive", {})
    x, y = _images(case)
    count = min(len(x), _batch(case))
    x, y = x[:count], y[:count]
    takes = settable(attack.entry.obj)
    arguments = {k: v for k, v in attack.arguments.items() if k not in ("eot", "restarts")}
    if "batch_size" in takes:
        arguments.setdefault("batch_size", _batch(case))
    seed = case.bench.settings.seed
    frozen = _Frozen(case.bench.model, seed)
    ball = case.threat.select(torch.arange(count, device=x.device))
    with counted(frozen) as passes, seeded("fixed randomness", seed):
        arguments = chosen(arguments, frozen, x, y)
        x_adv = attack.entry.obj(frozen, x.clone(), y.clone(), ball, **arguments)
        with torch.no_grad():
            answers = frozen(x_adv).argmax(1)
    fixed = ((answers == y) | (answers == case.classes)).cpu().numpy()
    free = case.standing([case.of(attack)], case.few)[:count]
    p = mcnemar(fixed, free, "greater")
    more = int(fixed.sum()) - int(free.sum())
    bad = too_many(more, count) and p < LEVEL
    says = f"with its draws fixed {fixed.mean():.1%} of {count} images stand, with fresh draws "
    says += f"{free.mean():.1%} (one-sided p {p:.2g}, level {LEVEL:.1%})"
    if bad:
        says += "; fixed draws are an easier target, so the attack loses its way without them"
    evidence = {"fixed": float(fixed.mean()), "fresh": float(free.mean()), "p": p, "n": count}
    evidence["passes"] = passes.forward + passes.backward
    return Finding(check, verdict(not bad), says, "adaptive", evidence)
