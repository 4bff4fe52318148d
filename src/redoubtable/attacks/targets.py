"""Which class an image is to be taken for, by name."""

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from redoubtable.attacks.rivals import rivals_of
from redoubtable.gradients import mean_logits
from redoubtable.parts import facts_of
from redoubtable.registry import Registry
from redoubtable.types import Images, Labels

_PASSES = 30
"""Network passes of a random model that its mean answer to a clean image is taken from."""


class Choice(Protocol):
    """Chooses the targets of an attack, none of them the true class."""

    def __call__(self, model: nn.Module, x: Images, y: Labels, batch_size: int | None, /) -> Labels:
        """Return (N,) targets."""
        ...


TARGETS: Registry[Choice] = Registry("choice of targets")
"""What `targets=` of an attack is read by."""


@TARGETS.register("random")
def random_targets(model: nn.Module, x: Images, y: Labels, batch_size: int | None) -> Labels:
    """Any class but the true one, all alike; drawn from the global random state."""
    classes = _probabilities(model, x, batch_size).shape[1]
    if classes < 2:
        raise ValueError(f"a target needs at least two classes, the model has {classes}")
    return (y + torch.randint(1, classes, y.shape, device=y.device)) % classes


@TARGETS.register("runner_up")
def runner_up(model: nn.Module, x: Images, y: Labels, batch_size: int | None) -> Labels:
    """The class of largest mean probability on the clean image, but for the true one."""
    facts = facts_of(model)
    looks = -(-_PASSES // facts.passes) if facts.stochastic else 1
    mean = torch.stack([_probabilities(model, x, batch_size) for _ in range(looks)]).mean(0)
    return rivals_of(mean, y, 1, abstains=False).squeeze(1)


def _probabilities(model: nn.Module, x: Images, batch_size: int | None) -> Tensor:
    """(N, K) of the classes, at one look; a rejection is no class to be taken for."""
    logits = mean_logits(model, x, batch_size=batch_size)
    return logits[:, : logits.shape[1] - facts_of(model).abstains].softmax(1)


def chosen(arguments: Mapping[str, Any], model: nn.Module, x: Images, y: Labels) -> dict[str, Any]:
    """Return an attack's arguments with the classes in the place of the choice `targets`.

    Args:
        arguments: as bound from text, where `targets` is a choice if it is there.
        model: what is attacked; it is asked for its classes.
        x: (N, C, H, W) clean images.
        y: (N,) true labels.
    """
    given = dict(arguments)
    if callable(given.get("targets")):
        given["targets"] = given["targets"](model, x, y, given.get("batch_size"))
    return given
