"""The one-pixel attack: differential evolution of places and colours."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from redoubtable.attacks.crowd import offer_best, with_pixels
from redoubtable.attacks.random_search import REFRESH
from redoubtable.attacks.registry import ATTACKS, check_threat
from redoubtable.attacks.search import Search
from redoubtable.losses import Objective, aim, check_losses, cross_entropy, margin
from redoubtable.parts import facts_of
from redoubtable.threat import L0, ThreatModel
from redoubtable.types import Images, Labels, Loss

_WEIGHT = 0.5
"""Of the difference of two parents that is added to a third, F."""


@ATTACKS.register("one_pixel", threats=(L0,), access="score")
def one_pixel(
    model: nn.Module,
    x: Images,
    y: Labels,
    threat: ThreatModel,
    *,
    targets: Labels | None = None,
    steps: int = 100,
    population: int = 400,
    loss: Loss = cross_entropy,
    success: Loss = margin,
    eot: int = 1,
    batch_size: int | None = None,
    stop: bool = True,
) -> Images:
    """One-pixel attack (Su, Vargas & Sakurai 2019, arXiv:1710.08864, sections 3.2 and 3.3).

    Differential evolution: a candidate is `eps` places with a colour each; a child is one parent
    plus half the difference of two others, without crossover, and replaces the parent of its own
    number if it is better. All populations evolve in one batch. The paper doesn't say what becomes
    of children outside the image: places are drawn anew, colours cut.

    On a random model every tenth generation is a new look at the parents, so that a lucky draw
    does not live for ever.

    Args:
        model: classifier.
        x: (N, C, H, W) in [0, 1].
        y: (N,) true labels.
        threat: L0; `eps` is the number of pixels.
        targets: (N,) classes to be taken for; None to leave the true class.
        steps: generations after the first, at least 1; the paper's default.
        population: candidates of each image, at least 4; the paper's default.
        loss: what is raised; the cross-entropy orders as the paper's class probability does.
        success: a margin, positive once the attack succeeded; what is returned is ranked by it.
        eot: random draws that an answer is averaged over.
        batch_size: images in one pass; None for as many as go through a network well.
        stop: let an example leave once it is misclassified (never on a random model).

    Returns:
        (N, C, H, W) legal images: of each example the candidate of largest `success`.
    """
    if steps < 1 or population < 4:
        raise ValueError(
            f"`steps` must be at least 1 and `population` 4, got {steps} and {population}"
        )
    check_threat("one_pixel", threat)
    x, facts = x.detach(), facts_of(model)
    check_losses(facts.abstains, loss=loss)
    search = Search(model, x, y, targets, success, stop, batch_size)
    pixels = threat.radius(x).clamp_max(threat.diameter(x))
    search_in = _Generation(search, aim(loss, y, targets), aim(success, y, targets), pixels, eot)
    index = search.open
    parents = _first(x, population, int(pixels.amax().item()))
    fitness, still = search_in.judge(index, parents)
    for step in range(1, steps + 1):
        index, parents, fitness = index[still], parents[still], fitness[still]
        if len(index) == 0:
            break
        if facts.stochastic and step % REFRESH == 0:
            search.value[index] = -torch.inf
            fitness, still = search_in.judge(index, parents)
            continue
        children = _children(parents)
        theirs, still = search_in.judge(index, children)
        better = theirs > fitness
        parents = torch.where(better[:, :, None, None], children, parents)
        fitness = torch.where(better, theirs, fitness)
    return threat.project(search.strongest(eot), x)


def _first(x: Images, population: int, pixels: int) -> Tensor:
    """(N, population, pixels, 2 + C): places uniform, colours normal around the middle."""
    places = torch.rand(len(x), population, pixels, 2, dtype=x.dtype, device=x.device)
    colours = torch.randn(len(x), population, pixels, x.shape[1], dtype=x.dtype, device=x.device)
    return torch.cat([places, (0.5 + 0.5 * colours).clamp(0, 1)], 3)


def _children(parents: Tensor) -> Tensor:
    """One child for each parent, of three others."""
    n, population, *_ = parents.shape
    device = parents.device
    first, second, third = (
        torch.randint(1, population - taken, (n, population), device=device) for taken in range(3)
    )
    # Three different distances from the parent's own number, each choice equally likely.
    second = second + (second >= first)
    third = third + (third >= torch.minimum(first, second))
    third = third + (third >= torch.maximum(first, second))
    own = torch.arange(population, device=device)
    rows = torch.arange(n, device=device)[:, None]
    one, two, three = (parents[rows, (own + far) % population] for far in (first, second, third))
    child = one + _WEIGHT * (two - three)
    places, colours = child[..., :2], child[..., 2:].clamp(0, 1)
    outside = (places < 0) | (places >= 1)
    return torch.cat([torch.where(outside, torch.rand_like(places), places), colours], 3)


@dataclass(frozen=True)
class _Generation:
    """How candidates become images and images are judged."""

    search: Search
    raised: Objective
    rank: Objective
    pixels: Tensor
    eot: int

    def judge(self, index: Tensor, candidates: Tensor) -> tuple[Tensor, Tensor]:
        """Return the (M, population) fitness, and which of the (M,) examples are still open.

        The candidate of largest `success` is offered for each example.
        """
        logits, still = offer_best(
            self.search, self.rank, index, candidates, lambda c: self._paint(index, c), self.eot
        )
        population = logits.shape[1]
        fitness = self.raised(logits.flatten(0, 1), index.repeat_interleave(population))
        return fitness.view(-1, population), still

    def _paint(self, index: Tensor, candidates: Tensor) -> Images:
        """(M, m, pixels, 2 + C) candidates as (M, m, C, H, W) images."""
        height, width = self.search.x.shape[2:]
        rows, columns = (candidates[..., 0] * height).long(), (candidates[..., 1] * width).long()
        used = torch.arange(candidates.shape[2], device=index.device) < self.pixels[index][:, None]
        places, colours = rows * width + columns, candidates[..., 2:]
        return with_pixels(self.search.x[index], places, colours, used[:, None])
