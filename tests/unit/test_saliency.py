"""Input saliency is the absolute gradient of the predicted class's logit, and leaves no trace."""

import pytest
import torch
from torch import Tensor, nn

from redoubtable.gradients import finite_difference
from redoubtable.parts import Part
from redoubtable.saliency import saliency
from tests.networks import LinearModel, blobs, facts, small_net


def linear(classes: int = 5) -> LinearModel:
    return LinearModel(torch.randn(classes, 3, 4, 4))


def test_of_a_linear_model_it_is_the_absolute_weights_of_the_predicted_class() -> None:
    model, x = linear(), torch.rand(30, 3, 4, 4)
    found = saliency(model, x)
    said = model(x).argmax(1)
    assert len(said.unique()) > 2
    assert torch.equal(found.classes, said)
    assert torch.equal(found.values, model.weight.detach()[said].abs())


def test_it_is_what_a_small_change_does() -> None:
    net, x = small_net(smooth=True).double(), blobs(4).double()
    said = net(x).argmax(1)

    def logit(images: Tensor) -> Tensor:
        return net(images).gather(1, said[:, None]).squeeze(1)

    found = saliency(net, x).values
    for c, i, j in [(0, 0, 0), (1, 3, 5), (2, 7, 7)]:
        one = torch.zeros_like(x)
        one[:, c, i, j] = 1
        slope = finite_difference(logit, x, one, 1e-5)
        assert torch.allclose(found[:, c, i, j], slope.abs(), atol=1e-6)


class Abstaining(Part):
    """A model whose last column, the rejection, is always the largest."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    facts = facts(abstains=True)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.model(x), 100 + x.sum((1, 2, 3))[:, None]], 1)

    def undefended(self) -> nn.Module:
        return self.model


def test_a_rejection_is_no_class() -> None:
    model, x = linear(), torch.rand(6, 3, 4, 4)
    bare, guarded = saliency(model, x), saliency(Abstaining(model), x)
    assert torch.equal(guarded.values, bare.values)
    assert torch.equal(guarded.classes, bare.classes)


def test_the_model_is_looked_at_in_evaluation_mode_and_left_as_it_was() -> None:
    net, x = small_net(), blobs(6)
    expected = saliency(net, x).values
    net.train()
    net.bn2.eval()
    before = [p.clone() for p in net.bn1.buffers()]
    assert torch.equal(saliency(net, x).values, expected)
    assert net.training and net.bn1.training and not net.bn2.training
    assert all(torch.equal(a, b) for a, b in zip(before, net.bn1.buffers(), strict=True))
    assert all(p.grad is None for p in net.parameters()) and not x.requires_grad


def test_pieces_give_the_same() -> None:
    net, x = small_net(), blobs(7)
    whole, parts = saliency(net, x), saliency(net, x, batch_size=3)
    assert torch.allclose(whole.values, parts.values, atol=1e-6)
    assert torch.equal(whole.classes, parts.classes)


def test_what_can_not_be_explained_is_refused() -> None:
    with pytest.raises(ValueError, match="`x` must lie in"):
        saliency(linear(), torch.rand(2, 3, 4, 4) + 1)
    with pytest.raises(TypeError, match="`x` must be a float32"):
        saliency(linear(), torch.zeros(2, 3, 4, 4, dtype=torch.uint8))

    class Deaf(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.zeros(len(x), 3)

    with pytest.raises(ValueError, match="has no gradient to its input"):
        saliency(Deaf(), torch.rand(2, 3, 4, 4))
