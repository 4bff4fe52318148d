"""Attacks of torchattacks, foolbox and ART in the form of our own."""

import importlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Labels


@dataclass(frozen=True)
class Foreign:
    """An attack of another library, callable as `attack(model, x, y, threat, targets=None)`.

    What it returns is checked like any other result and not projected: an image outside of the
    threat says that the attack was set up for another one, and a projected image would be neither
    that attack's nor ours. It takes its radius from its own settings, but for foolbox, which is
    told that of the threat.

    Attributes:
        attack: the object of the other library.
        name: "torchattacks.PGD"; for tables and seeds.
    """

    attack: Any
    name: str

    def __call__(
        self,
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: ThreatModel,
        *,
        targets: Labels | None = None,
    ) -> Images:
        """Return (N, C, H, W) images of the type and place of `x`, as the attack made them."""
        run = _LIBRARIES[self.name.partition(".")[0]]
        # A copy for each: some write into their arguments.
        goal = None if targets is None else targets.clone()
        with torch.enable_grad():
            found = run(self.attack, model, x.detach().clone(), y.clone(), threat, goal)
        return found.detach().to(x)


def foreign(attack: Any) -> Foreign:
    """Return an attack of torchattacks, foolbox or ART in the form that `evaluate` calls.

    torchattacks and foolbox attack the model that is given to the call, whichever the object was
    made with; ART attacks the network of its own estimator, which only transfers to a model with
    a defense around it. Modes and `.grad` of the networks, and the settings of the object, are as
    before after a call, also after an exception. Nothing is imported but what made the object.

    Raises:
        TypeError: the object is of none of them.
    """
    names = [kind.__module__.partition(".")[0] for kind in type(attack).__mro__]
    library = next((n for n in names if n in _LIBRARIES), None)
    if library is None:
        raise TypeError(
            f"`attack` must be an object of {', '.join(_LIBRARIES)}, as in foreign("
            f"torchattacks.PGD(model)), got {type(attack).__name__}"
        )
    return Foreign(attack, f"{library}.{type(attack).__name__}")


def _torchattacks(
    attack: Any, model: nn.Module, x: Images, y: Labels, threat: ThreatModel, targets: Labels | None
) -> Images:
    attacks = list(_nested(attack))
    before = [(one, dict(vars(one))) for one in attacks]
    try:
        with _untouched(model, *(one.model for one in attacks)):
            attack.set_model(model)
            if targets is not None:
                attack.set_mode_targeted_by_label(quiet=True)
            found: Images = attack(x, y if targets is None else targets)
            return found
    finally:
        for one, settings in before:
            vars(one).clear()
            vars(one).update(settings)


def _nested(attack: Any) -> Iterator[Any]:
    """A torchattacks object and those that it is made of."""
    yield attack
    for part in vars(attack).get("_attacks", {}).values():
        yield from _nested(part)


def _foolbox(
    attack: Any, model: nn.Module, x: Images, y: Labels, threat: ThreatModel, targets: Labels | None
) -> Images:
    foolbox = importlib.import_module("foolbox")
    found = x.clone()
    with _untouched(model):
        model.eval()
        wrapped = foolbox.PyTorchModel(model, bounds=(0, 1), device=x.device)
        radius = threat.radius(x)  # foolbox takes one for all images
        for eps in torch.unique(radius).tolist():
            some = (radius == eps).nonzero().squeeze(1)
            if targets is None:
                aim = foolbox.criteria.Misclassification(y[some])
            else:
                aim = foolbox.criteria.TargetedMisclassification(targets[some])
            limit = None if eps == torch.inf else eps
            _, clipped, _ = attack(wrapped, x[some], aim, epsilons=limit)
            found[some] = clipped.detach()
    return found


def _art(
    attack: Any, model: nn.Module, x: Images, y: Labels, threat: ThreatModel, targets: Labels | None
) -> Images:
    if (targets is not None) != bool(getattr(attack, "targeted", False)):
        raise ValueError(
            f"`targets` and the attack disagree: {type(attack).__name__} was made with "
            f"targeted={getattr(attack, 'targeted', False)}; make it again"
        )
    labels = y if targets is None else targets
    network = getattr(attack.estimator, "model", None)
    with _untouched(*([network] if isinstance(network, nn.Module) else [])):
        found = attack.generate(x=x.cpu().numpy(), y=labels.cpu().numpy())
    return torch.from_numpy(found)


@contextmanager
def _untouched(*models: nn.Module) -> Iterator[None]:
    """Put modes, `.grad` and `requires_grad` of networks back after a block."""
    modes = {module: module.training for model in models for module in model.modules()}
    slopes = {p: (p.grad, p.requires_grad) for model in models for p in model.parameters()}
    for parameter in slopes:
        parameter.grad = None  # what is there would be added to, in place
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
        for parameter, (slope, required) in slopes.items():
            parameter.requires_grad_(required)
            parameter.grad = slope


_LIBRARIES: dict[str, Callable[..., Images]] = {
    "torchattacks": _torchattacks,
    "foolbox": _foolbox,
    "art": _art,
}
