"""Recipes that train on images attacked as they come: PGD, Fast, Free and TRADES."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redoubtable.gradients import input_gradient
from redoubtable.losses import Objective, cross_entropy
from redoubtable.parts import in_eval_mode
from redoubtable.threat import ThreatModel, parse_threat
from redoubtable.training.processes import unwrapped
from redoubtable.training.recipes import RECIPES, Recipe, check_smoothing
from redoubtable.types import Images, Labels

_TRADES_NOISE = 0.001


@RECIPES.register("pgd", paper="Madry et al. 2018, https://arxiv.org/abs/1706.06083")
def pgd(
    *,
    threat: str = "Linf:8/255",
    steps: int = 7,
    step_size: float | None = None,
    smoothing: float = 0.0,
) -> Recipe:
    """Cross-entropy on images attacked by PGD (Madry et al. 2018, section 2.1).

    The attack starts at random, sees the network in evaluation mode (as that of TRADES does; with
    batch statistics the attacked network would be another one than the user's) and trains on the
    last iterate. An image costs `steps` passes more than in natural training, none of which
    computes gradients of weights.

    Args:
        threat: what the attacker may change.
        steps: of the attack, at least 1; 7 is the paper's for CIFAR-10.
        step_size: in the units of eps; None for 2.5 eps / steps.
        smoothing: of the labels, in [0, 1).

    Raises:
        ValueError: an argument is out of its range.
    """
    ball = parse_threat(threat)
    check_smoothing(smoothing)
    size = _step_size(ball, steps, step_size)

    def loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
        def objective(logits: Tensor, index: Tensor) -> Tensor:
            return cross_entropy(logits.float(), y[index])

        with in_eval_mode(unwrapped(model)) as network:
            x_adv = _climb(network, x, ball.sample(x), objective, ball, steps, size)
        return F.cross_entropy(model(x_adv).float(), y, label_smoothing=smoothing)

    return Recipe(loss)


@RECIPES.register("fast", paper="Wong et al. 2020, https://arxiv.org/abs/2001.03994")
def fast(
    *, threat: str = "Linf:8/255", step_size: float | None = None, smoothing: float = 0.0
) -> Recipe:
    """Cross-entropy on images attacked by one step from a random start (Wong et al. 2020).

    FGSM-RS; the attack sees the network in training mode, as in the authors' code. With many epochs
    or a large eps its robustness can collapse within one epoch ("catastrophic overfitting", their
    section 5.2): look at the accuracy under PGD, not under FGSM.

    Args:
        threat: what the attacker may change.
        step_size: in the units of eps; None for 1.25 eps, the paper's.
        smoothing: of the labels, in [0, 1).

    Raises:
        ValueError: an argument is out of its range.
    """
    ball = parse_threat(threat)
    check_smoothing(smoothing)
    size = 1.25 * _finite_eps(ball) if step_size is None else _step_size(ball, 1, step_size)

    def loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
        start = ball.sample(x).requires_grad_()
        # One pass over all of it: `input_gradient` may take pieces, each with its own statistics.
        (slope,) = torch.autograd.grad(
            F.cross_entropy(unwrapped(model)(start).float(), y, reduction="sum"), start
        )
        start = start.detach()
        x_adv = ball.project(start + ball.ascent(slope, start, x, size), x)
        return F.cross_entropy(model(x_adv).float(), y, label_smoothing=smoothing)

    return Recipe(loss)


@RECIPES.register("free", paper="Shafahi et al. 2019, https://arxiv.org/abs/1904.12843")
def free(*, threat: str = "Linf:8/255", replays: int = 8, smoothing: float = 0.0) -> Recipe:
    """Weights and perturbation moved by one and the same gradient (Shafahi et al. 2019).

    Every batch is trained on `replays` times; the perturbation, one per place in the batch, goes
    from each replay and batch to the next, by steps of eps. So an epoch is worth, and costs,
    `replays` of natural training: choose `epochs` as many times smaller.

    Args:
        threat: what the attacker may change.
        replays: of each batch, at least 1; m in the paper.
        smoothing: of the labels, in [0, 1).

    Raises:
        ValueError: an argument is out of its range.
    """
    ball = parse_threat(threat)
    check_smoothing(smoothing)
    _check_count("replays", replays)
    _finite_eps(ball)
    state: dict[str, Tensor] = {}
    last: list[tuple[Tensor, Images, Images]] = []  # noise, images and attacked images, if any

    def settle() -> None:
        """Move the perturbation along the gradient that the last backward pass left."""
        for noise, x, x_adv in last:
            if noise.grad is not None:
                # Where a scaled loss overflowed the weights stay, and so does the perturbation.
                slope = noise.grad.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
                step = ball.ascent(slope, x_adv, x, float(ball.eps))
                state["noise"][: len(x)] = ball.clip(noise.detach() + step)
        last.clear()

    def loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
        settle()
        before = state.get("noise", x[:0])
        if len(before) < len(x):
            state["noise"] = torch.cat([before.to(x), torch.zeros_like(x[len(before) :])])
        noise = state["noise"][: len(x)].to(x.device).clone().requires_grad_()
        x_adv = (x + noise).clamp(0, 1)
        last.append((noise, x, x_adv.detach()))
        return F.cross_entropy(model(x_adv).float(), y, label_smoothing=smoothing)

    return Recipe(loss, replays=replays, state=state, settle=settle)


@RECIPES.register("trades", paper="Zhang et al. 2019, https://arxiv.org/abs/1901.08573")
def trades(
    *,
    threat: str = "Linf:0.031",
    beta: float = 6.0,
    steps: int = 10,
    step_size: float | None = 0.007,
    smoothing: float = 0.0,
) -> Recipe:
    """Cross-entropy on clean images plus beta times how far an attack moves the answer.

    CE(f(x), y) + beta KL(f(x) || f(x_adv)), where x_adv raises the second term, from a start at
    normal noise of 0.001 and with the network in evaluation mode (Zhang et al. 2019, algorithm 1,
    and the authors' code). Clean and attacked images go through the network one after the other, so
    that batch norm sees each by itself.

    Args:
        threat: what the attacker may change.
        beta: weight of the second term, at least 0; 1 / lambda in the paper.
        steps: of the attack, at least 1.
        step_size: in the units of eps; None for 2.5 eps / steps.
        smoothing: of the labels in the first term, in [0, 1).

    Raises:
        ValueError: an argument is out of its range.
    """
    ball = parse_threat(threat)
    check_smoothing(smoothing)
    if not beta >= 0:
        raise ValueError(f"`beta` must be at least 0, got {beta}")
    size = _step_size(ball, steps, step_size)

    def loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
        with in_eval_mode(unwrapped(model)) as network:
            # Not under no_grad: until 2.10 torch keeps the cast weights of autocast as it finds
            # them, and the passes below would train nothing but what is not cast.
            answer = network(x).detach().float()

            def objective(logits: Tensor, index: Tensor) -> Tensor:
                return _divergence(answer[index], logits.float())

            start = ball.project(x + _TRADES_NOISE * torch.randn_like(x), x)
            x_adv = _climb(network, x, start, objective, ball, steps, size)
        clean = model(x).float()
        apart = _divergence(clean, model(x_adv).float()).mean()
        return F.cross_entropy(clean, y, label_smoothing=smoothing) + beta * apart

    return Recipe(loss)


def _divergence(clean: Tensor, attacked: Tensor) -> Tensor:
    """KL of the softmax of two sets of logits, (N,); the gradient goes through both.

    From logarithms: that of a probability that has become 0 has no gradient but NaN.
    """
    logs = clean.log_softmax(1), attacked.log_softmax(1)
    return F.kl_div(logs[1], logs[0], reduction="none", log_target=True).sum(1)


def _climb(
    model: nn.Module,
    x: Images,
    start: Images,
    objective: Objective,
    threat: ThreatModel,
    steps: int,
    size: float | Tensor,
) -> Images:
    """Projected steps of steepest ascent from `start`; the last iterate.

    Unlike an attack of an evaluation it keeps no best image and stops for none: the defender
    trains on what the last step gives (Madry et al. 2018).
    """
    x_adv = start
    for _ in range(steps):
        slope = input_gradient(model, x_adv, objective)
        x_adv = threat.project(x_adv + threat.ascent(slope.gradient, x_adv, x, size), x)
    return x_adv


def _step_size(threat: ThreatModel, steps: int, size: float | None) -> float | Tensor:
    _check_count("steps", steps)
    if size is None:
        return threat.default_step(steps)
    if not size > 0:
        raise ValueError(f"`step_size` must be positive, got {size}")
    return size


def _finite_eps(threat: ThreatModel) -> float:
    eps = float(threat.eps)
    if not math.isfinite(eps):
        raise ValueError(f"`threat` must have a finite eps to take steps of, got {threat}")
    return eps


def _check_count(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a whole number of at least 1, got {value!r}")
