"""Small networks whose behaviour is known, for tests."""

import torch
from torch import Tensor, nn

from redoubtable.parts import Facts, Part


class LinearModel(nn.Module):
    """Logits `w x + b`; `weight` is (K, C, H, W)."""

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.clone())
        self.bias = nn.Parameter(torch.zeros(len(weight)).to(weight) if bias is None else bias)

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) @ self.weight.flatten(1).T + self.bias


class SmallNet(nn.Module):
    """Two convolutions with batch norm and a linear layer, for images of any size."""

    def __init__(self, channels: int = 3, classes: int = 4, smooth: bool = False) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, 6, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(6)
        self.conv2 = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(8)
        self.act = nn.Tanh() if smooth else nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(32, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.act(self.bn1(self.conv1(2 * x - 1)))
        x = self.act(self.bn2(self.conv2(x)))
        return self.linear(self.flatten(self.pool(x)))


def small_net(
    channels: int = 3, classes: int = 4, *, smooth: bool = False, seed: int = 0
) -> nn.Module:
    """A fixed random network in eval mode; its batch norms are far from the identity."""
    generator = torch.Generator().manual_seed(seed)
    net = SmallNet(channels, classes, smooth)
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.normal_(0, 1.5 / fan_in**0.5, generator=generator)
                if module.bias is not None:
                    module.bias.normal_(0, 0.1, generator=generator)
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.3, generator=generator)
                module.running_var.uniform_(0.3, 2.0, generator=generator)
                module.weight.uniform_(0.5, 1.5, generator=generator)
                module.bias.normal_(0, 0.3, generator=generator)
    return net.eval()


def facts(
    *,
    stochastic: bool = False,
    differentiable: bool = True,
    batch_dependent: bool = False,
    abstains: bool = False,
    passes: int = 1,
) -> Facts:
    """Facts with the defaults of a plain module, which the package rightly does not have."""
    return Facts(stochastic, differentiable, batch_dependent, abstains, passes)


class RandomScale(Part):
    """A random model of known mean: the logits of a network times a factor per image and pass.

    The factor is uniform in [1 - spread, 1 + spread], so the mean of its logits and gradients is
    that of the network.
    """

    def __init__(self, model: nn.Module, spread: float = 2.0, states: bool = True) -> None:
        super().__init__()
        self.model, self.spread, self.states = model, spread, states

    @property
    def facts(self) -> Facts:
        return facts(stochastic=self.states)

    def forward(self, x: Tensor) -> Tensor:
        out = self.model(x)
        return out * (1 + self.spread * (2 * torch.rand_like(out[:, :1]) - 1))

    def undefended(self) -> nn.Module:
        return self.model


def blobs(n: int, channels: int = 3, height: int = 8, width: int = 8, seed: int = 0) -> Tensor:
    """Images that use the whole box: smooth in the middle, some values exactly 0 and 1."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(n, channels, height, width, generator=generator)
    return (1.4 * x - 0.2).clamp(0, 1)
