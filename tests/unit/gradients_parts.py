"""What the tests of gradients and of fast copies share."""

import torch
from torch import Tensor, nn

from redoubtable.seeding import seeded


def norms_in(model: nn.Module, x: Tensor) -> int:
    """How many batch norms a pass goes through."""
    passed: list[nn.Module] = []
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    hooks = [m.register_forward_hook(lambda m, *_: passed.append(m)) for m in norms]
    with torch.no_grad(), torch.random.fork_rng():
        model(x)
    for hook in hooks:
        hook.remove()
    return len(passed)


def shake(model: nn.Module) -> nn.Module:
    """Batch norms far from the identity, as after training."""
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.normal_(0, 0.3, generator=g)
                m.running_var.uniform_(0.5, 2.0, generator=g)
                m.weight.uniform_(0.5, 1.5, generator=g)
                m.bias.normal_(0, 0.3, generator=g)
    return model.eval()


def assert_same_function(model: nn.Module, copy: nn.Module, x: Tensor, atol: float = 1e-4) -> None:
    with torch.no_grad(), seeded("same"):
        expected = model(x)
    with torch.no_grad(), seeded("same"):
        got = copy(x)
    assert got.dtype == expected.dtype
    scale = max(1.0, expected.abs().max().item())
    assert torch.allclose(got, expected, atol=atol * scale)
