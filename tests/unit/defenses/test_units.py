"""Sampling units keep the mean of a map, and drop what they say."""

import math

import pytest
import torch

from redoubtable.defenses import MVM, SAP, Dropout, mvm_probabilities
from redoubtable.defenses.mvm import keep_probabilities, variance
from redoubtable.defenses.sampling.units import Unit, drawn
from redoubtable.seeding import seeded

UNITS = [
    MVM(0.5, "layer"),
    MVM(1.0, "layer", "bernoulli"),
    MVM(0.5, "layer", solver="sqrt"),
    SAP(0.5),
    SAP(1.0, "bernoulli"),
    Dropout(0.4),
]
ids = [f"{type(u).__name__}-{u.extra_repr()}" for u in UNITS]
every_unit = pytest.mark.parametrize("unit", UNITS, ids=ids)


def maps(n: int = 3, channels: int = 4, side: int = 5, seed: int = 0) -> torch.Tensor:
    with seeded("maps", seed):
        found = torch.randn(n, channels, side, side).relu()
    found[0, :, 2] = 0.0  # a row of places without energy
    return found


def factors(unit: Unit, x: torch.Tensor, draws: int, seed: int = 0) -> torch.Tensor:
    with seeded("draw", seed):
        places = x.shape[2:].numel()
        return unit.factors(unit.probabilities(x, places), draws, x.shape, places)


@every_unit
def test_the_mean_over_draws_is_the_map(unit: Unit) -> None:
    x, draws = maps(), 20_000
    kept = factors(unit, x, draws) * x
    error = (kept.mean(0) - x) / (kept.std(0) / math.sqrt(draws)).clamp_min(1e-9)
    moving = kept.std(0) > 0
    assert moving.any()
    assert error[moving].abs().max() < 5  # standard errors, of some hundred values
    torch.testing.assert_close(kept.mean(0)[~moving], x[~moving])


@pytest.mark.parametrize("law", ["multinomial", "bernoulli"])
def test_the_variance_of_mvm_is_its_objective(law: str) -> None:
    x = maps()
    unit = MVM(0.5, "layer", law)
    kept = factors(unit, x, 40_000) * x
    measured = (kept - x).square().sum((2, 3, 4)).mean(0)
    c, p = 12, unit.probabilities(x, 25)  # half of 25, to the even one
    expected = variance(x.square().sum(1).flatten(1), p, c)
    torch.testing.assert_close(measured, expected, rtol=0.03, atol=0)


def test_mvm_keeps_or_drops_all_channels_of_a_place_together() -> None:
    found = factors(MVM(0.5, "layer"), maps(), 50)
    assert found.shape == (50, 3, 1, 5, 5)
    assert (found == 0).any() and (found > 0).any()


@pytest.mark.parametrize("share", [0.5, 1.0, 2.0])
def test_of_c_draws_mvm_keeps_c_places_at_most_and_as_many_as_expected(share: float) -> None:
    x, unit = maps(), MVM(share, "layer")
    kept = (factors(unit, x, 4000) > 0).flatten(2).sum(2).double()
    c = unit.draws_on(25, 25)
    assert kept.max() <= min(c, 25)
    pi = keep_probabilities(unit.probabilities(x, 25), c)
    torch.testing.assert_close(kept.mean(0), pi.sum(1).double(), rtol=0.02, atol=0)


def test_draws_are_as_many_as_the_image_asks_for_on_a_smaller_map() -> None:
    x, unit = maps(), MVM(0.5)  # of an image with 100 places: 50 draws from 25
    p = unit.probabilities(x, 100)
    with seeded("draw"):
        kept = (unit.factors(p, 4000, x.shape, 100) > 0).flatten(2).sum(2).double()
    torch.testing.assert_close(p, mvm_probabilities(x.square().sum(1).flatten(1), 50))
    expected = keep_probabilities(p, 50).sum(1).double()
    torch.testing.assert_close(kept.mean(0), expected, rtol=0.02, atol=0)


def test_bernoulli_keeps_each_place_by_itself_with_the_same_probability() -> None:
    x = maps()
    literal, free = (factors(MVM(0.5, "layer", law), x, 20_000) > 0 for law in LAWS)
    places = literal.double().mean(0)
    torch.testing.assert_close(places, free.double().mean(0), atol=0.02, rtol=0)
    assert literal.flatten(2).sum(2).double().var(0)[1] < free.flatten(2).sum(2).double().var(0)[1]


LAWS = ("multinomial", "bernoulli")


def test_draws_are_a_share_of_the_image_or_of_the_map() -> None:
    assert MVM(0.5).draws_on(576, 784) == 392  # whatever the map, as the paper has it
    assert MVM(0.5, "layer").draws_on(576, 784) == 288
    assert MVM(0.001, "layer").draws_on(64, 784) == 1


def test_sap_follows_magnitudes_and_divides_by_what_it_keeps() -> None:
    x = torch.tensor([[[[1.0, 3.0]], [[0.0, 4.0]]]])  # (1, 2, 1, 2)
    unit = SAP(0.5)
    torch.testing.assert_close(unit.probabilities(x, 2), torch.tensor([[0.125, 0.375, 0.0, 0.5]]))
    found = factors(unit, x, 4000)  # two draws
    keep = 1 - (1 - torch.tensor([0.125, 0.375, 0.0, 0.5])) ** 2
    values = found.flatten(2)[:, 0]
    assert (values[:, 2] == 0).all()
    for i in (0, 1, 3):
        torch.testing.assert_close(values[:, i].max(), 1 / keep[i])
        torch.testing.assert_close((values[:, i] > 0).float().mean(), keep[i], atol=0.03, rtol=0)


@every_unit
def test_maps_without_energy_and_empty_batches_give_no_nan(unit: Unit) -> None:
    x = maps()
    x[1] = 0
    assert factors(unit, x, 3).isfinite().all()
    assert len(factors(unit, x[:0], 3)[0]) == 0


@every_unit
def test_half_precision_maps_are_measured_in_float32(unit: Unit) -> None:
    x = (maps() * 200).to(torch.bfloat16)
    found = unit.probabilities(x, 25)
    if not isinstance(unit, Dropout):
        torch.testing.assert_close(found, unit.probabilities(x.float(), 25))
    assert factors(unit, x, 2).isfinite().all()


@every_unit
def test_images_draw_for_themselves(unit: Unit) -> None:
    x = maps(1).repeat(2, 1, 1, 1)
    found = factors(unit, x, 20)
    assert not torch.equal(found[:, 0], found[:, 1])
    assert not torch.equal(found[0], found[1])


def test_what_has_no_probability_is_never_drawn() -> None:
    p = torch.tensor([[0.5, 0.0, 0.5], [0.0, 0.0, 0.0]])
    with seeded("drawn"):
        kept = drawn(p, 30, 200)
    assert not kept[:, 0, 1].any()
    assert kept[:, 0, 0].float().mean() > 0.99


@pytest.mark.parametrize(("n", "count"), [(4, 6), (4, 3), (3, 40), (4, 4)])
def test_the_number_of_distinct_values_has_its_exact_distribution(n: int, count: int) -> None:
    """k of n equally likely values in c draws: n! / (n - k)! S(c, k) / n^c, S of Stirling."""
    stirling = [[0] * (n + 1) for _ in range(count + 1)]
    stirling[0][0] = 1
    for c in range(1, count + 1):
        for k in range(1, n + 1):
            stirling[c][k] = k * stirling[c - 1][k] + stirling[c - 1][k - 1]
    expected = [math.perm(n, k) * stirling[count][k] / n**count for k in range(n + 1)]
    trials = 40_000
    with seeded("distinct"):
        kept = drawn(torch.full((1, n), 1 / n), count, trials)
    found = torch.bincount(kept.sum(2).flatten(), minlength=n + 1) / trials
    for k in range(n + 1):
        spread = math.sqrt(expected[k] * (1 - expected[k]) / trials)
        assert abs(found[k].item() - expected[k]) <= 4.5 * spread + 1e-12


@pytest.mark.parametrize("count", [3, 30])
def test_a_rows_draws_do_not_depend_on_its_neighbours(count: int) -> None:
    p = torch.rand(3, 6) + 0.1
    other = torch.cat([p[:1], torch.rand(2, 6) + 0.1])
    with seeded("beside"):
        found = drawn(p, count, 50)
    with seeded("beside"):
        assert torch.equal(found[:, 0], drawn(other, count, 50)[:, 0])


def test_values_drawn_together_are_as_rare_as_draws_make_them() -> None:
    """Counts share their draws: P(neither of two) = (1 - p - q)^c, not the product."""
    p = torch.tensor([[0.1, 0.2, 0.3, 0.4]])
    for count in (3, 5):
        with seeded("pair"):
            kept = drawn(p, count, 60_000)
        neither = (~kept[:, 0, 0] & ~kept[:, 0, 1]).double().mean().item()
        assert neither == pytest.approx(0.7**count, abs=0.01)
        assert abs(neither - 0.9**count * 0.8**count) > 0.01


@pytest.mark.parametrize("share", [0.0, -1.0, math.nan, math.inf])
def test_shares_that_are_none_are_refused(share: float) -> None:
    for unit in (MVM, SAP):
        with pytest.raises(ValueError, match="`share`"):
            unit(share)


def test_other_settings_that_are_none_are_refused() -> None:
    with pytest.raises(ValueError, match="`counts` must be one of image, layer"):
        MVM(counts="map")
    with pytest.raises(ValueError, match="`law`"):
        SAP(law="poisson")
    with pytest.raises(ValueError, match="`solver`"):
        MVM(solver="newton")
    for rate in (1.0, -0.1, math.nan):
        with pytest.raises(ValueError, match="`rate`"):
            Dropout(rate)
