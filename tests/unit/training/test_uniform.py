"""Subsampled images to their labels and others to the uniform distribution."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from redoubtable.data import read
from redoubtable.defenses import subsample
from redoubtable.models import create
from redoubtable.seeding import seeded
from redoubtable.training import RECIPES, Settings, subsampled_uniform
from tests.unit.training.parts import quiet


class Spy(nn.Module):
    """A linear classifier that keeps every batch it sees."""

    def __init__(self, classes=3):
        super().__init__()
        self.linear = nn.Linear(48, classes)
        self.seen = []

    def forward(self, x):
        self.seen.append(x.detach().clone())
        return self.linear(x.flatten(1))


@pytest.fixture
def batch():
    return 0.1 + 0.3 * torch.rand(6, 3, 4, 4), torch.tensor([0, 1, 2, 2, 1, 0])


@pytest.mark.parametrize("text", ["variant=original", "variant=noisy"])
@pytest.mark.parametrize("more", ["", ",weight=0.25", ",smoothing=0.3"])
def test_the_loss_by_hand(text, more, batch):
    x, y = batch
    bound = RECIPES.bind(f"subsampled_uniform:rate=0.5,{text}{more}")
    model = Spy()
    loss = bound.entry.obj(**bound.arguments)(model, x, y)
    (both,) = model.seen
    logs = model.linear(both.flatten(1)).log_softmax(1)
    to_label = torch.zeros(())
    smoothing = 0.3 if "smoothing" in more else 0.0
    for k in range(6):
        to_label = to_label - (1 - smoothing) * logs[k, y[k]] - smoothing * logs[k].sum() / 3
    to_uniform = -logs[6:].sum() / 3
    weight = 0.25 if "weight" in more else 1.0
    torch.testing.assert_close(loss, to_label / 6 + weight * to_uniform / 6)


def test_the_original_images_are_the_ones_mapped_to_uniform(batch):
    x, y = batch
    model = Spy()
    with seeded("masks"):
        subsampled_uniform(rate=0.7)(model, x, y)
    with seeded("masks"):
        expected = subsample(x, 0.7)
    assert torch.equal(model.seen[0][:6], expected)
    assert torch.equal(model.seen[0][6:], x)


@pytest.mark.parametrize("granularity", ["element", "pixel"])
def test_noise_comes_before_the_same_mask(granularity, batch):
    x, y = batch
    model = Spy()
    rule = subsampled_uniform(rate=0.5, variant="noisy", eps=0.05, granularity=granularity)
    rule(model, x, y)
    first, second = model.seen[0][:6], model.seen[0][6:]
    kept = first != 0.5
    assert torch.equal(second == 0.5, ~kept)
    assert torch.equal(first[kept], x[kept])
    change = (second - x)[kept]
    assert torch.allclose(change.abs(), torch.tensor(0.05))
    assert (change > 0).float().mean().item() == pytest.approx(0.5, abs=0.2)
    together = torch.equal(kept, kept[:, :1].expand_as(kept))
    assert together == (granularity == "pixel")
    rule(model, x, y)
    assert not torch.equal(model.seen[0], model.seen[1])


def test_signs_are_fair_and_of_each_value_and_noise_is_not_clipped():
    x, y = torch.ones(50, 3, 4, 4), torch.zeros(50, dtype=torch.int64)
    model = Spy()
    subsampled_uniform(rate=0.0, variant="noisy")(model, x, y)
    signs = (model.seen[0][50:] - 1) / (8 / 255)
    assert torch.allclose(signs.abs(), torch.ones(()), atol=1e-5)  # 16/255 of [-1, 1]
    assert signs.mean().abs() < 0.1
    assert not torch.equal(signs, signs[:, :1].expand_as(signs))
    assert model.seen[0].max().item() == pytest.approx(1 + 8 / 255)


def test_both_halves_share_one_batch_norm():
    x, y = torch.rand(8, 1, 4, 4), torch.zeros(8, dtype=torch.int64)
    model = nn.Sequential(nn.BatchNorm2d(1, momentum=1.0), nn.Flatten(), nn.Linear(16, 3)).train()
    sizes = []
    model.register_forward_pre_hook(lambda _, given: sizes.append(len(given[0])))
    with seeded("masks"):
        subsampled_uniform(rate=0.9)(model, x, y)
    with seeded("masks"):
        both = torch.cat([subsample(x, 0.9), x])
    assert sizes == [16]
    torch.testing.assert_close(model[0].running_mean, both.mean()[None])


def test_the_uniform_half_is_worth_log_k_at_least():
    """The cross-entropy to the uniform distribution is least where the answer is uniform."""
    x, y = torch.rand(4, 3, 4, 4), torch.zeros(4, dtype=torch.int64)
    model = Spy(10)
    nn.init.zeros_(model.linear.weight)
    nn.init.zeros_(model.linear.bias)
    loss = subsampled_uniform(rate=0.5, weight=2.0)(model, x, y)
    assert loss.item() == pytest.approx(3 * torch.log(torch.tensor(10.0)).item())


def test_from_text():
    bound = RECIPES.bind("subsampled_uniform:rate=0.8,variant=noisy,weight=2,eps=8/255")
    assert bound.arguments == {"rate": 0.8, "variant": "noisy", "weight": 2.0, "eps": 8 / 255}
    with pytest.raises(ValueError, match="variant must be"):
        RECIPES.bind("subsampled_uniform:variant=loud")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"rate": 1.5}, "`rate`"),
        ({"variant": "loud"}, "`variant` must be"),
        ({"weight": -1.0}, "`weight` must be finite"),
        ({"weight": float("nan")}, "`weight` must be finite"),
        ({"eps": 0.1}, "`eps` must be None unless variant=noisy"),
        ({"eps": 8.0, "variant": "noisy"}, r"`eps` must lie in \(0, 1\]"),
        ({"eps": 0.0, "variant": "noisy"}, r"`eps` must lie in \(0, 1\]"),
        ({"granularity": "row"}, "`granularity`"),
        ({"smoothing": 1.0}, "`smoothing`"),
    ],
)
def test_bad_arguments_are_refused(bad, message):
    with pytest.raises(ValueError, match=message):
        subsampled_uniform(**bad)


def test_it_learns_subsampled_digits_and_unlearns_the_originals():
    x, y = read("digits", "test", limit=300).floats()
    rate = 0.6
    with seeded("look"):
        x_masked = subsample(x, rate)

    def look(model):
        with torch.no_grad():
            right = (model.eval()(x_masked).argmax(1) == y).float().mean().item()
            sure = F.softmax(model(x), 1).amax(1).mean().item()
        return right, sure

    found = {}
    for text in ("subsampled", "subsampled_uniform"):
        with seeded("init", 0):
            model = create("small_cnn", width=12)
        before, _ = look(model)
        quiet(model, read("digits", "train"), f"{text}:rate={rate}", Settings(epochs=8))
        found[text] = look(model)
    right, sure = found["subsampled_uniform"]
    assert right > before + 0.5
    assert found["subsampled"][1] > 0.8  # what is left alone stays sure of the originals
    assert sure < 0.25
