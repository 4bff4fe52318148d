"""Votes over all masks of a tiny image, so that probabilities are exact."""

import itertools
import math

import torch
from torch import Tensor, nn

from redoubtable.certification import Ablation
from redoubtable.gradients import bpda
from redoubtable.parts import Facts, Part
from tests.networks import facts

GREY = 0.5


def masks_of(law: Ablation, channels: int, height: int, width: int) -> tuple[Tensor, Tensor]:
    """All (M, C or 1, H, W) masks and the (M,) probability of each, in double precision."""
    depth = channels if law.granularity == "element" else 1
    places = depth * height * width
    bits = torch.tensor(list(itertools.product([False, True], repeat=places)))
    kept = bits.sum(1)
    if law.rate is not None:
        chances = (1 - law.rate) ** kept.double() * law.rate ** (places - kept).double()
    else:
        assert law.keep is not None
        chances = (kept == law.keep).double() / math.comb(places, law.keep)
    possible = chances > 0
    return bits[possible].view(-1, depth, height, width), chances[possible]


class AllMasks(Part):
    """The logarithm of the exact share of votes; its slope is that of the mean probability."""

    def __init__(self, net: nn.Module, law: Ablation, channels: int, height: int, width: int):
        super().__init__()
        self.net = net
        self.masks, self.chances = masks_of(law, channels, height, width)

    @property
    def facts(self) -> Facts:
        return facts(differentiable=False, passes=len(self.masks))

    def answers(self, x: Tensor) -> Tensor:
        """(N, M, K) logits under each mask."""
        copies = torch.where(self.masks, x[:, None], GREY).flatten(0, 1)
        return self.net(copies).view(len(x), len(self.masks), -1)

    def probabilities(self, x: Tensor) -> Tensor:
        """(N, K) exact probabilities of each class as the answer to a random mask."""
        with torch.no_grad():
            out = self.answers(x)
        votes = torch.zeros_like(out).scatter_(2, out.argmax(2, keepdim=True), 1.0)
        return (votes.double() * self.chances[:, None]).sum(1)

    def forward(self, x: Tensor) -> Tensor:
        def hard(images: Tensor) -> Tensor:
            return (self.probabilities(images) + 1e-6).log().to(images)

        def soft(images: Tensor) -> Tensor:
            share = self.chances[:, None].to(images)
            return (self.answers(images).softmax(2) * share).sum(1).clamp_min(1e-12).log()

        return bpda(hard, soft)(x)

    def undefended(self) -> nn.Module:
        return self.net


def tiny_net(channels: int, height: int, width: int, classes: int = 3, seed: int = 0) -> nn.Module:
    """A random network whose answer depends on each value."""
    generator = torch.Generator().manual_seed(seed)
    hidden, places = 12, channels * height * width
    net = nn.Sequential(
        nn.Flatten(), nn.Linear(places, hidden), nn.ReLU(), nn.Linear(hidden, classes)
    )
    with torch.no_grad():
        for module in net:
            if isinstance(module, nn.Linear):
                module.weight.normal_(0, 2 / module.in_features**0.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
        # Without an answer of its own to grey, what is kept decides.
        net[3].bias -= net(torch.full((1, channels, height, width), GREY))[0]
    return net.eval()
