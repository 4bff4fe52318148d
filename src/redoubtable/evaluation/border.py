"""What is looked at before it is believed: models, labels, and the images that attacks return."""

from typing import Any

import torch
from torch import nn

from redoubtable.evaluation.chunks import read
from redoubtable.parts import facts_of
from redoubtable.seeding import seeded
from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Labels, LazyImages, check_labels


def classes_of(model: nn.Module, x: LazyImages, y: Labels) -> int:
    """Return how many classes a model has, a rejection not counted.

    Raises:
        ValueError: it does not take the images, its output is no (N, K), or the labels don't fit.
    """
    facts = facts_of(model)
    # A model that compares the images of its batch may not take one alone.
    one = read(x, slice(0, 1 + facts.batch_dependent))
    device = device_of(model, one)
    try:
        with torch.no_grad(), seeded("classes"):
            out = model(one.clone().to(device))
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise ValueError(
            f"the model does not take images of shape {tuple(x.shape[1:])}: {first}; "
            "use the data that it was trained for"
        ) from None
    if not isinstance(out, torch.Tensor) or out.ndim != 2 or len(out) != len(one):
        got = tuple(out.shape) if isinstance(out, torch.Tensor) else type(out).__name__
        raise ValueError(f"the model must give (N, K) logits, got {got} for one image")
    classes = out.shape[1] - facts.abstains
    check_labels(y, len(x), classes)
    return classes


def device_of(model: nn.Module, x: Images) -> torch.device:
    """Return where a model lives; one without parameters takes images where they are."""
    return next((p.device for p in model.parameters()), x.device)


def check_legal(attack: str, x_adv: Any, x: Images, threat: ThreatModel) -> None:
    """Refuse an attack's result that is missing, of another shape, or not legal."""
    if not isinstance(x_adv, torch.Tensor) or x_adv.shape != x.shape:
        got = tuple(x_adv.shape) if isinstance(x_adv, torch.Tensor) else type(x_adv).__name__
        raise ValueError(f"attack {attack!r} returned {got} instead of {tuple(x.shape)} images")
    legal = threat.contains(x_adv, x)
    if not bool(legal.all()):
        far = threat.distance(x, x_adv).max().item()
        raise ValueError(
            f"attack {attack!r} returned {int((~legal).sum())} illegal images of {len(x)} under "
            f"{threat}: largest distance {far:.6g}, values in [{x_adv.min().item():.6g}, "
            f"{x_adv.max().item():.6g}]; no accuracy can be told from them"
        )
