"""A recipe that trains a network on the answers of others."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redoubtable.files import digest_model
from redoubtable.models import load_model, read_card
from redoubtable.training.recipes import RECIPES, Recipe
from redoubtable.types import Images, Labels


@RECIPES.register("distilled", paper="Hinton et al. 2015, https://arxiv.org/abs/1503.02531")
def distilled(
    *, teachers: Sequence[str] = (), temperature: float = 1.0, labels: float = 0.0
) -> Recipe:
    """Cross-entropy to what trained networks answer on the same images (Hinton et al. 2015).

    The target is the mean of the teachers' softmax(z / T), and the network's own softmax is taken
    at T too; times T^2, so that the size of the gradient does not depend on T (section 2). Teachers
    are in evaluation mode and stay as they are. An image costs one forward pass of each more.

    One teacher of the same kind and a high temperature make defensive distillation (Papernot et al.
    2016, https://arxiv.org/abs/1511.04508), which is known to be broken: at a temperature of 1 its
    softmax saturates and gradients of the cross-entropy vanish, those of a margin don't (Carlini &
    Wagner 2017, https://arxiv.org/abs/1608.04644).

    Args:
        teachers: folders of trained models, `a;b` in text.
        temperature: T, more than 0.
        labels: share of the plain cross-entropy to the labels in the loss, in [0, 1].

    Raises:
        ValueError: there is no teacher, a folder has no model, or an argument is out of its range;
            in a run that goes on, a teacher is not the one that it began with.
    """
    if isinstance(teachers, str) or not teachers or not all(teachers):
        raise ValueError(
            f"`teachers` must name folders of trained models, got {teachers!r}; write "
            "distilled:teachers=runs/one;runs/two"
        )
    if not 0 < temperature < math.inf:
        raise ValueError(f"`temperature` must be more than 0 and finite, got {temperature}")
    if not 0 <= labels <= 1:
        raise ValueError(f"`labels` must lie in [0, 1], got {labels}")
    networks = [load_model(folder).requires_grad_(False).eval() for folder in teachers]
    shapes = [read_card(folder).data.get("shape") for folder in teachers]
    channels = {shape[0] for shape in shapes if shape}
    digests = ",".join(digest_model(network) for network in networks)
    own = torch.tensor(list(digests.encode()), dtype=torch.uint8)
    state = {"teachers": own}  # a checkpoint brings back those that the run began with

    def loss(model: nn.Module, x: Images, y: Labels) -> Tensor:
        if not torch.equal(state["teachers"].cpu(), own):
            raise ValueError(
                f"the models in {', '.join(teachers)} are not those that this run began with; "
                "begin another in a new folder"
            )
        if channels - {x.shape[1]}:
            raise ValueError(
                f"teachers must take images of {x.shape[1]} channels, got one for "
                f"{(channels - {x.shape[1]}).pop()}"
            )
        logits = model(x).float()
        with torch.no_grad():
            answers = [network.to(x.device)(x).float() for network in networks]
            target = torch.stack([(z / temperature).softmax(1) for z in answers]).mean(0)
        if target.shape != logits.shape:
            raise ValueError(
                f"teachers must have as many classes as the model, {logits.shape[1]}, got "
                f"{target.shape[1]}"
            )
        to_teachers = temperature**2 * F.cross_entropy(logits / temperature, target)
        to_labels = F.cross_entropy(logits, y) if labels else 0.0
        total: Tensor = (1 - labels) * to_teachers + labels * to_labels
        return total

    return Recipe(loss, state=state)
