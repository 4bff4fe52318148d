"""Randomised smoothing on models whose true radius is known, and the frame around it."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn

from redoubtable.certification import (
    ABSTAIN,
    CERTIFICATES,
    Smoothing,
    best_bound,
    certify,
    predict,
)
from redoubtable.parts import Part
from tests.networks import LinearModel, blobs, facts, small_net

NOISE = 0.5


def linear(channels: int = 1, side: int = 3) -> tuple[nn.Module, Tensor]:
    """Two classes by the sign of w x + b, and images on both sides; w has length 1."""
    generator = torch.Generator().manual_seed(3)
    w = torch.randn(channels, side, side, generator=generator)
    w = w / w.norm()
    x = torch.rand(40, channels, side, side, generator=generator)
    b = -(x * w).flatten(1).sum(1).mean()
    return LinearModel(torch.stack([-w, w]), torch.stack([-b, b])), x


def distances(model: nn.Module, x: Tensor) -> Tensor:
    """(N,) to the boundary of the linear model: of the smoothed one too, by symmetry."""
    with torch.no_grad():
        out = model(x)
    return (out[:, 1] - out[:, 0]) / 2


def test_a_certificate_is_the_bound_of_the_second_vote() -> None:
    model, x = linear()
    got = certify(model, x, Smoothing(NOISE), n0=10, n=200, alpha=0.01)
    for k, hits in enumerate(got.hits.tolist()):
        test = stats.binomtest(hits, 200, alternative="greater").proportion_ci(0.99)
        assert got.lower[k] == pytest.approx(test.low, abs=1e-9)
        if test.low > 0.5:
            assert got.radii[k] == pytest.approx(NOISE * stats.norm.ppf(test.low))
            assert got.classes[k] != ABSTAIN
        else:
            assert (got.classes[k], got.radii[k]) == (ABSTAIN, 0)
    assert 0 < (got.classes == ABSTAIN).sum() < len(x)


def test_a_linear_model_is_certified_up_to_its_true_distance_and_not_beyond() -> None:
    """P(class) is Phi(distance / noise), so the radius tends to the distance from below."""
    model, x = linear()
    far = distances(model, x)
    got = certify(model, x, Smoothing(NOISE), n=20_000, batch_size=20_000)
    sure = got.classes != ABSTAIN
    assert sure.mean() > 0.8
    assert np.all(got.classes[sure] == (far > 0).long().numpy()[sure])
    assert np.all(got.radii <= far.abs().numpy())
    assert np.all(got.radii[sure] >= far.abs().numpy()[sure] - 0.06)


def test_certificates_fail_as_often_as_alpha_allows_and_no_more() -> None:
    """One image, certified again and again: beyond its true distance in at most alpha of cases."""
    model, x = linear()
    far = distances(model, x)
    one = int((far.abs() - 0.35).abs().argmin())
    times, alpha = 800, 0.1
    images = x[one].expand(times, *x[one].shape)
    got = certify(model, images, Smoothing(NOISE), n0=20, n=100, alpha=alpha)
    wrong = got.radii > abs(far[one].item())
    wrong |= (got.classes != ABSTAIN) & (got.classes != int(far[one] > 0))
    failures = int(wrong.sum())
    assert stats.binomtest(failures, times, alpha, alternative="greater").pvalue > 0.01
    # A bound that is far too careful would be true, too, and of no use.
    assert failures > 0.5 * alpha * times


def test_votes_at_the_boundary_are_not_decided() -> None:
    model, x = linear()
    w = model.weight[1].detach()
    on_it = x - distances(model, x).view(-1, 1, 1, 1) * w
    assert distances(model, on_it).abs().max() < 1e-5
    on_it = on_it.clamp(0, 1)[distances(model, on_it.clamp(0, 1)).abs() < 1e-5]
    many = on_it[:1].expand(300, *on_it.shape[1:])
    certified = certify(model, many, Smoothing(NOISE), n=200, alpha=0.05).classes
    predicted = predict(model, many, Smoothing(NOISE), n=200, alpha=0.05)
    for answers in (certified, predicted):
        told = int((answers != ABSTAIN).sum())
        assert stats.binomtest(told, 300, 0.05, alternative="greater").pvalue > 0.01
    assert (predicted != ABSTAIN).sum() > 0


def test_predictions_are_the_votes_winner_where_the_test_tells() -> None:
    model, x = linear()
    far = distances(model, x)
    got = predict(model, x, Smoothing(NOISE), n=500, alpha=0.001)
    clear = far.abs().numpy() > 0.2
    assert np.all(got[clear] == (far > 0).long().numpy()[clear])
    few = predict(model, x, Smoothing(NOISE), n=5, alpha=0.001)
    assert np.all(few == ABSTAIN), "5 of 5 has p = 0.06"


def test_the_class_is_chosen_by_other_samples_than_those_that_bound_it() -> None:
    """Of 300 equal classes one vote for both would certify its luck."""

    class Dice(Part):
        facts = facts(stochastic=True)

        def forward(self, x: Tensor) -> Tensor:
            return torch.rand(len(x), 300) + 0 * x.flatten(1)[:, :1]

        def undefended(self) -> nn.Module:
            return small_net()

    got = certify(Dice(), blobs(50), Smoothing(0.1), n0=60, n=60)
    # A lucky class has 2 or 3 of 60; an other vote gives it 60 / 300 on average.
    assert got.hits.mean() < 0.6
    assert np.all(got.classes == ABSTAIN)


def test_parts_batches_and_modes() -> None:
    model, x = small_net().train(), blobs(6)
    whole = certify(model, x, Smoothing(0.1), n0=8, n=50)
    parts = [
        certify(model, x[a:b], Smoothing(0.1), n0=8, n=50, first=a) for a, b in ((0, 2), (2, 6))
    ]
    for name in ("classes", "radii", "lower", "hits"):
        joined = np.concatenate([getattr(p, name) for p in parts])
        assert np.array_equal(getattr(whole, name), joined)
    assert model.training
    other = certify(model, x, Smoothing(0.1), n0=8, n=50, seed=1)
    assert not np.array_equal(whole.hits, other.hits)
    cut = certify(model, x, Smoothing(0.1), n0=8, n=50, batch_size=7)
    assert np.abs(cut.hits - whole.hits).max() < 25
    assert cut.hits.max() <= 50


def test_noise_is_gaussian_of_its_deviation_and_unclipped() -> None:
    x = torch.full((2000, 1, 5, 5), 0.9)
    y = Smoothing(0.3).sample(x)
    assert stats.kstest(((y - x) / 0.3).flatten().numpy(), "norm").pvalue > 0.01
    assert y.max() > 1.2


def test_the_radius_is_that_of_theorem_1() -> None:
    """Phi(1) = 0.841345 and Phi(-2) = 0.022750."""
    got = Smoothing(0.5).radius(0.8413447460685429, 0.022750131948179195, (3, 8, 8))
    assert got == pytest.approx(0.5 / 2 * (1 + 2))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n": 9, "alpha": 0.001}, "more than 9"),
        ({"n0": 0}, "`n0` must be at least 1"),
        ({"alpha": 0.0}, "alpha"),
        ({"alpha": 0.5}, "alpha"),
        ({"batch_size": 0}, "batch_size"),
    ],
)
def test_arguments_that_certify_nothing_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        certify(small_net(), blobs(1), Smoothing(), **change)
    assert best_bound(10, 0.001) == pytest.approx(0.001**0.1) and best_bound(10, 0.001) > 0.5


def test_no_certificate_where_samples_depend_on_each_other() -> None:
    class Centred(Part):
        facts = facts(batch_dependent=True)

        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

        def undefended(self) -> nn.Module:
            return nn.Identity()

    for act in (certify, predict):
        call: Callable[..., Any] = act
        with pytest.raises(ValueError, match="depends on its batch"):
            call(nn.Sequential(Centred(), small_net()), blobs(2), Smoothing())


@pytest.mark.parametrize("noise", [0.0, -1.0, math.inf, math.nan])
def test_noise_is_above_zero(noise: float) -> None:
    with pytest.raises(ValueError, match="noise"):
        Smoothing(noise)


def test_answers_of_nan_are_no_votes() -> None:
    with pytest.raises(ValueError, match="NaN"):
        certify(LinearModel(torch.full((2, 3, 8, 8), math.nan)), blobs(1), Smoothing())


def test_certificates_are_registered_with_their_norm() -> None:
    bound = CERTIFICATES.bind("smoothing:noise=0.5")
    assert bound.entry.obj(**bound.arguments).noise == 0.5  # type: ignore[attr-defined]
    assert bound.entry.facts["norm"] == "L2"
