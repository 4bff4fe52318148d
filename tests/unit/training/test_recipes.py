import pytest
import torch
import torch.nn.functional as F

from redoubtable.defenses.subsampling import subsample
from redoubtable.seeding import seeded
from redoubtable.training import RECIPES, natural, subsampled
from tests.unit.training.parts import Spy


def test_natural_is_cross_entropy():
    x, y = torch.rand(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1])
    assert torch.equal(natural()(Spy(), x, y), F.cross_entropy(x.flatten(1)[:, :3], y))


def test_subsampled_at_a_fixed_rate():
    x, y, spy = torch.zeros(40, 3, 16, 16), torch.zeros(40, dtype=torch.int64), Spy()
    with seeded("mask"):
        loss = subsampled(rate=0.9)(spy, x, y)
    dropped = spy.x == 0.5
    assert torch.equal(spy.x[~dropped], torch.zeros(int((~dropped).sum())))
    assert dropped.float().mean().item() == pytest.approx(0.9, abs=0.01)
    assert dropped.float().mean((1, 2, 3)).std() < 0.05
    with seeded("mask"):
        kept = subsample(x, 0.9)
    assert torch.equal(spy.x, kept) and torch.equal(loss, F.cross_entropy(Spy()(kept), y))


def test_subsampled_uniformly_draws_a_rate_per_image_anew():
    x, y, spy = torch.zeros(400, 3, 12, 12), torch.zeros(400, dtype=torch.int64), Spy()
    recipe = subsampled()
    with seeded("mask"):
        recipe(spy, x, y)
        first = spy.x
        recipe(spy, x, y)
    rates = (first == 0.5).float().mean((1, 2, 3))
    counts = torch.histc(rates, 4, 0, 1)
    assert counts.min() > 70 and counts.max() < 130
    assert not torch.equal(first, spy.x)


def test_granularity_of_the_mask():
    x, y, spy = torch.zeros(20, 3, 12, 12), torch.zeros(20, dtype=torch.int64), Spy()
    subsampled(rate=0.5, granularity="pixel")(spy, x, y)
    assert torch.equal(spy.x, spy.x[:, :1].expand_as(x))
    subsampled(rate=0.5)(spy, x, y)
    assert not torch.equal(spy.x, spy.x[:, :1].expand_as(x))


def test_recipes_from_text():
    assert RECIPES.bind("subsampled:rate=0.9").arguments == {"rate": 0.9}
    assert RECIPES.bind("subsampled:rate=uniform,granularity=pixel").arguments == {
        "rate": "uniform",
        "granularity": "pixel",
    }
    with pytest.raises(ValueError, match="subsampled:rate must be"):
        RECIPES.bind("subsampled:rate=often")
    with pytest.raises(ValueError, match="`rate`"):
        subsampled(rate=1.5)
