"""The other classes that an image could be taken for, each an objective of its own."""

from collections.abc import Sequence

import torch
from torch import Tensor

from redoubtable.attacks.search import Search
from redoubtable.losses import Objective, aim
from redoubtable.types import Labels, Logits, Loss


def rivals_of(logits: Logits, y: Labels, count: int | None, abstains: bool) -> Labels:
    """Return the classes beside the true one, the likeliest first: (N, J), J at most `count`.

    Args:
        logits: (N, K) answers, whose last column is the rejection if the model abstains.
        y: (N,) true labels.
        count: how many; None for all. There are fewer where there are fewer classes.
        abstains: whether the model has a rejection; it is no class to be taken for.

    Raises:
        ValueError: `count` is below 1, or there is only one class.
    """
    if count is not None and count < 1:
        raise ValueError(f"`classes` must be at least 1, got {count}")
    classes = logits.shape[1] - abstains
    if classes < 2:
        raise ValueError(f"an attack needs at least two classes, the model has {classes}")
    others = logits[:, :classes].scatter(1, y[:, None], -torch.inf)
    most = classes - 1
    return others.topk(most if count is None else min(count, most), dim=1).indices


def duel(success: Loss, y: Labels, rivals: Labels, abstains: bool) -> Objective:
    """Return the `success` that there would be if an image's label and one rival were all classes.

    For the margin that is z_r - z_y. A rejection stays in, so that it has to be beaten too.

    Args:
        success: a margin.
        y: (N,) true labels.
        rivals: (N,) other classes.
        abstains: whether the last column is a rejection.
    """

    def lead(logits: Logits, index: Tensor) -> Tensor:
        out = torch.ones_like(logits, dtype=torch.bool)
        out = out.scatter(1, torch.stack([y[index], rivals[index]], 1), False)
        if abstains:
            out[:, -1] = False
        return success(logits.masked_fill(out, -torch.inf), y[index])

    return lead


def aims(search: Search, count: int, eot: int, abstains: bool) -> list[Labels]:
    """Return what to aim at in turn: the targets if there are some, else the likeliest rivals.

    Args:
        search: with the clean images.
        count: how many rivals.
        eot: random draws that the look at the clean images is averaged over.
        abstains: whether the model has a rejection.
    """
    if search.targets is not None:
        return [search.targets]
    return list(rivals_of(search.look(search.x, eot), search.y, count, abstains).unbind(1))


def leads_of(
    logits: Logits,
    y: Labels,
    targets: Labels | None,
    success: Loss,
    count: int | None,
    abstains: bool,
) -> list[Objective]:
    """Return what is 0 on the boundaries that an example may cross, and positive behind them.

    Towards targets there is one boundary, to the strongest other class; else one to each rival.

    Args:
        logits: (N, K) answers to the clean images.
        y: (N,) true labels.
        targets: (N,) classes to be taken for, or None.
        success: a margin.
        count: how many rivals; None for all.
        abstains: whether the model has a rejection.
    """
    if targets is not None:
        return [aim(success, y, targets)]
    rivals = rivals_of(logits, y, count, abstains)
    return [duel(success, y, one, abstains) for one in rivals.unbind(1)]


def of_examples(leads: Sequence[Objective], index: Tensor) -> list[Objective]:
    """Return the objectives for a batch of the examples `index`: (M,)."""

    def chosen(lead: Objective) -> Objective:
        return lambda logits, i: lead(logits, index[i])

    return [chosen(lead) for lead in leads]
