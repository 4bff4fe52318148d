"""Subsampling and votes against the vectors of their specification (section 7) and brute force."""

import math

import pytest
import torch
from torch import Tensor, nn

from redoubtable.defenses import DEFENSES, InputTransform, Subsample, Vote, subsample
from redoubtable.defenses.subsampling import uniform_rates
from redoubtable.parts import Part, bare, facts_of
from redoubtable.seeding import seeded
from tests.networks import LinearModel, RandomScale, blobs, facts, small_net

# -- subsampling ---------------------------------------------------------------------------------


def grey_free(n: int = 60, channels: int = 3, side: int = 40) -> Tensor:
    """Images without a grey value, so that what was dropped can be told."""
    x = torch.rand(n, channels, side, side)
    return torch.where((x - 0.5).abs() < 0.01, torch.tensor(0.9), x)


@pytest.mark.parametrize(("granularity", "share"), [("element", 0.271), ("pixel", 0.100)])
def test_share_of_pixels_that_keep_a_channel(granularity: str, share: float) -> None:
    """Vector of spec 000, section 7: r = 0.9 keeps at least one of 3 channels with 1 - 0.9^3."""
    x = grey_free()
    kept = subsample(x, 0.9, granularity) != 0.5  # type: ignore[arg-type]
    some = kept.any(1).double().mean().item()
    error = math.sqrt(share * (1 - share) / (60 * 40 * 40))
    assert some == pytest.approx(share, abs=5 * error)
    assert kept.double().mean().item() == pytest.approx(0.1, abs=0.005)
    if granularity == "pixel":
        assert (kept.any(1) == kept.all(1)).all()


@pytest.mark.parametrize("granularity", ["element", "pixel"])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_kept_values_are_not_scaled_up_and_dropped_ones_are_grey(
    granularity: str, rate: float
) -> None:
    x = grey_free(8)
    out = subsample(x, rate, granularity)  # type: ignore[arg-type]
    assert ((out == x) | (out == 0.5)).all()
    assert (out == 0.5).double().mean().item() == pytest.approx(rate, abs=0.02)


def test_a_rate_of_zero_keeps_all_and_of_one_drops_all() -> None:
    x = blobs(4)
    assert torch.equal(subsample(x, 0.0), x)
    assert (subsample(x, 1.0) == 0.5).all()


def test_every_call_and_every_image_has_its_own_mask() -> None:
    x = grey_free(2).expand(2, -1, -1, -1)
    x = torch.stack([x[0], x[0]])
    first, second = subsample(x, 0.5), subsample(x, 0.5)
    assert not torch.equal(first, second)
    assert not torch.equal(first[0], first[1])


def test_places_are_dropped_independently() -> None:
    kept = (subsample(grey_free(400, 1, 8), 0.5, "pixel") != 0.5).double().flatten(1)
    correlation = torch.corrcoef(kept.T) - torch.eye(64)
    assert correlation.abs().max() < 5 / math.sqrt(400)


def test_one_rate_per_image() -> None:
    x = grey_free(5)
    rates = torch.tensor([0.0, 0.25, 0.5, 0.75, 1.0])
    dropped = (subsample(x, rates) == 0.5).double().flatten(1).mean(1)
    assert torch.allclose(dropped, rates.double(), atol=0.02)


def test_the_gradient_is_the_mask() -> None:
    x = grey_free(3).requires_grad_()
    out = subsample(x, 0.7)
    (gradient,) = torch.autograd.grad(out.sum(), x)
    assert torch.equal(gradient, (out != 0.5).to(x))


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_rates_outside_the_unit_interval_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        subsample(blobs(2), rate)
    with pytest.raises(ValueError, match="rate"):
        Subsample(rate=rate)
    with pytest.raises(ValueError, match="rate"):
        subsample(blobs(2), torch.tensor([0.5, rate]))


def test_as_many_rates_as_images() -> None:
    with pytest.raises(ValueError, match="rate"):
        subsample(blobs(2), torch.tensor([0.5]))


def test_unknown_granularity_is_refused() -> None:
    with pytest.raises(ValueError, match="granularity"):
        Subsample(0.9, granularity="block")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("rate", "random"), [(0.0, False), (0.5, True), (0.99, True), (1.0, False)]
)
def test_it_is_random_only_between_nothing_and_all(rate: float, random: bool) -> None:
    part, x = Subsample(rate=rate), blobs(4)
    assert part.facts.stochastic is random
    assert (not torch.equal(part(x), part(x))) is random


@pytest.mark.parametrize(
    ("keep", "granularity", "random"),
    [(0, "pixel", False), (1, "pixel", True), (63, "pixel", True), (191, "element", True)],
)
def test_with_a_number_that_is_kept_it_is_as_random_as_it_says(
    keep: int, granularity: str, random: bool
) -> None:
    part, x = Subsample(keep=keep, granularity=granularity), grey_free(4, 3, 8)  # type: ignore[arg-type]
    assert part.facts.stochastic is random
    looks = [part(x) for _ in range(20)]
    assert any(not torch.equal(looks[0], look) for look in looks) is random
    kept = looks[0] != 0.5
    assert (kept.any(1) if granularity == "pixel" else kept).flatten(1).sum(1).tolist() == [
        keep
    ] * 4


@pytest.mark.parametrize(("granularity", "places"), [("pixel", 64), ("element", 192)])
def test_keeping_all_is_no_defense(granularity: str, places: int) -> None:
    x = grey_free(2, 3, 8)
    with pytest.raises(ValueError, match=f"leaves nothing to drop of {places} places"):
        Subsample(keep=places, granularity=granularity)(x)  # type: ignore[arg-type]
    assert torch.equal(subsample(x, granularity=granularity, keep=places), x)  # type: ignore[arg-type]


def test_one_of_rate_and_keep_is_given() -> None:
    for arguments in ({}, {"rate": 0.5, "keep": 3}):
        with pytest.raises(ValueError, match="give `rate`"):
            Subsample(**arguments)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="give `rate`"):
            subsample(blobs(2), **arguments)  # type: ignore[arg-type]


def test_settings_are_shown_and_read_from_text() -> None:
    bound = DEFENSES.bind("subsample:keep=75,granularity=pixel")
    assert repr(bound.entry.obj(**bound.arguments)) == "Subsample(keep=75, granularity='pixel')"
    assert repr(Subsample(0.9)) == "Subsample(rate=0.9, granularity='element')"


def test_the_module_takes_its_settings() -> None:
    x = grey_free(20)
    kept = Subsample(rate=0.5, granularity="pixel")(x) != 0.5
    assert (kept.any(1) == kept.all(1)).all()
    kept = Subsample(rate=0.5)(x) != 0.5
    assert not (kept.any(1) == kept.all(1)).all()


def test_uniform_rates_are_uniform() -> None:
    rates = uniform_rates(torch.zeros(4000, 1, 1, 1))
    assert rates.shape == (4000,)
    counts = torch.histc(rates, 10, 0, 1)
    assert counts.min() > 400 - 5 * 19
    assert counts.max() < 400 + 5 * 19


# -- transforms ----------------------------------------------------------------------------------


class Steps(InputTransform):
    """Rounds; the identity stands in."""

    facts = facts(differentiable=False)

    def transform(self, x: Tensor) -> Tensor:
        return (x * 8).round() / 8

    def surrogate(self, x: Tensor) -> Tensor:
        return x


def test_a_transform_has_its_values_and_its_surrogates_gradient() -> None:
    x = blobs(2).requires_grad_()
    out = Steps()(x)
    assert torch.equal(out, (x * 8).round() / 8)
    (gradient,) = torch.autograd.grad((out**2).sum(), x)
    assert torch.allclose(gradient, 2 * out)


def test_a_transform_without_a_surrogate_says_so() -> None:
    class Forgotten(InputTransform):
        facts = facts(differentiable=False)

        def transform(self, x: Tensor) -> Tensor:
            return x.round()

    with pytest.raises(NotImplementedError, match=r"Forgotten.*surrogate"):
        Forgotten()(blobs(2))


# -- votes ---------------------------------------------------------------------------------------


class Script(nn.Module):
    """Gives the logits of a list, one entry per pass over the images; folded passes count."""

    def __init__(self, logits: list[list[float]]) -> None:
        super().__init__()
        self.logits = torch.tensor(logits)

    def forward(self, x: Tensor) -> Tensor:
        passes = len(self.logits)
        return self.logits.repeat_interleave(len(x) // passes, 0).to(x)


def test_a_vote_is_the_mean_of_probabilities_and_not_of_logits() -> None:
    """Three passes lean to class 0, one is sure of class 1: the mean logits say 1, the vote 0."""
    logits = [[1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [0.0, 9.0]]
    out = Vote(Script(logits), draws=4)(torch.zeros(2, 1, 1, 1))
    expected = torch.tensor(logits).softmax(1).mean(0)
    assert torch.allclose(out.exp(), expected.expand(2, 2), atol=1e-6)
    assert out.argmax(1).tolist() == [0, 0]
    assert torch.tensor(logits).mean(0).argmax().item() == 1


def test_hard_votes_count_heads() -> None:
    logits = [[2.0, 1.9, 0.0], [2.0, 1.9, 0.0], [0.0, 50.0, 0.0], [0.1, 0.0, 9.0]]
    out = Vote(Script(logits), draws=4, count="labels")(torch.zeros(3, 1, 1, 1))
    assert out.argmax(1).tolist() == [0, 0, 0]
    # Two, one and one of four votes, and one more spread evenly.
    expected = (torch.tensor([2.0, 1.0, 1.0]) + 1 / 3) / 5
    assert torch.allclose(out.exp(), expected.expand(3, 3), atol=1e-6)
    soft = Vote(Script(logits), draws=4)(torch.zeros(1, 1, 1, 1))
    assert soft.argmax(1).item() == 1


def test_images_are_not_mixed_up_between_draws() -> None:
    net, x = small_net(), blobs(5)
    with torch.no_grad():
        expected = net(x).log_softmax(1)
        assert torch.allclose(Vote(net, draws=4)(x), expected, atol=1e-5)
        assert torch.equal(Vote(net, draws=4, count="labels")(x).argmax(1), expected.argmax(1))


def test_a_processor_sees_few_images_at_a_time_and_all_of_a_batch_that_matters() -> None:
    """Masks are those of one pass over all, so numbers do not depend on the cache."""
    seen: list[int] = []
    net, x = small_net(), blobs(20)
    net.register_forward_hook(lambda module, arguments, out: seen.append(len(out)))
    inner = nn.Sequential(Subsample(rate=0.5), net)
    with torch.no_grad(), seeded("vote"):
        out = Vote(inner, draws=7)(x)
    assert seen == [64, 64, 12]
    with torch.no_grad(), seeded("vote"):
        whole = inner(x.repeat(7, 1, 1, 1)).view(7, 20, -1)
    assert torch.allclose(out.exp(), whole.softmax(2).mean(0), atol=1e-6)

    class Centred(Part):
        facts = facts(batch_dependent=True)

        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

        def undefended(self) -> nn.Module:
            return nn.Identity()

    seen.clear()
    Vote(nn.Sequential(Centred(), net), draws=7)(x)
    assert seen == [140]


def test_the_draws_of_a_vote_are_independent() -> None:
    model = Vote(nn.Sequential(Subsample(rate=0.5), small_net()), draws=10)
    single = nn.Sequential(Subsample(rate=0.5), small_net())
    x = blobs(1).expand(400, -1, -1, -1)
    with torch.no_grad():
        spread = model(x).exp().std(0)
        alone = single(x).softmax(1).std(0)
    # The mean of ten has a standard deviation smaller by the root of ten.
    assert torch.allclose(alone / spread, torch.full((4,), 10**0.5), rtol=0.25)


def test_the_gradient_of_hard_votes_is_that_of_the_mean_probability() -> None:
    inner, x = RandomScale(small_net(smooth=True), 0.5), blobs(4)

    def gradient(count: str) -> Tensor:
        tracked = x.clone().requires_grad_()
        with seeded("vote"):
            out = Vote(inner, draws=5, count=count)(tracked)  # type: ignore[arg-type]
        return torch.autograd.grad(out[:, 2].sum(), tracked)[0]

    assert torch.allclose(gradient("labels"), gradient("probabilities"), atol=1e-6)
    assert (gradient("labels") != 0).any()


def test_sure_passes_give_finite_logarithms() -> None:
    out = Vote(Script([[1e4, -1e4], [1e4, -1e4]]), draws=2)(torch.zeros(1, 1, 1, 1))
    assert torch.isfinite(out).all()
    assert out[0, 0].item() == pytest.approx(0.0, abs=1e-6)


def test_a_vote_states_its_passes_and_the_randomness_inside() -> None:
    random = Vote(nn.Sequential(Subsample(rate=0.5), small_net()), draws=7)
    assert facts_of(random).passes == 7
    assert facts_of(random).stochastic
    assert not facts_of(Vote(small_net(), draws=7)).stochastic
    assert facts_of(Vote(random, draws=3)).passes == 21
    assert Vote(small_net(), count="labels").facts.differentiable is False


def test_a_vote_without_draws_or_with_another_count_is_refused() -> None:
    with pytest.raises(ValueError, match="draws"):
        Vote(small_net(), draws=0)
    with pytest.raises(ValueError, match="count"):
        Vote(small_net(), count="ranks")  # type: ignore[arg-type]


def test_the_bare_model_of_a_vote_of_subsampled_passes_is_the_network() -> None:
    net = small_net()
    assert bare(Vote(nn.Sequential(Subsample(rate=0.5), net), draws=3)) is net


def test_a_vote_over_a_linear_random_model_has_the_known_mean() -> None:
    """Far from saturation the mean probability follows the mean logits."""
    model = RandomScale(LinearModel(0.01 * torch.randn(3, 1, 2, 2)), 1.0)
    x = blobs(3, 1, 2, 2)
    with torch.no_grad():
        out = Vote(model, draws=4000)(x)
        expected = model.model(x).softmax(1)
    assert torch.allclose(out.exp(), expected, atol=1e-3)
