"""Scores, thresholds and rejection against their definitions, by brute force."""

import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from redoubtable.defenses import Subsample, Vote
from redoubtable.detectors import (
    Entropy,
    Rejecting,
    Score,
    Threshold,
    by_accuracy_loss,
    by_false_positives,
    calibrate,
)
from redoubtable.losses import evasion_margin
from redoubtable.parts import Part, bare
from redoubtable.seeding import seeded
from tests.networks import blobs, facts, small_net

# -- entropy -------------------------------------------------------------------------------------


def test_entropy_of_the_uniform_distribution_over_ten_classes() -> None:
    """Vector of spec 000, section 7."""
    score = Entropy()(torch.zeros(2, 1, 1, 1), torch.full((2, 10), 3.7, dtype=torch.float64))
    assert score.tolist() == pytest.approx([2.302585, 2.302585], abs=1e-6)


def test_entropy_by_hand() -> None:
    p = torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0], [0.9, 0.05, 0.05]], dtype=torch.float64)
    got = Entropy()(torch.zeros(3, 1, 1, 1), p.clamp_min(1e-300).log())
    expected = [1.5 * math.log(2), 0.0, -0.9 * math.log(0.9) - 0.1 * math.log(0.05)]
    assert got.tolist() == pytest.approx(expected, abs=1e-9)


def test_entropy_ignores_a_shift_of_the_logits_and_stays_finite() -> None:
    z = torch.tensor([[1.0, 2.0, 3.0], [1e4, -1e4, 0.0]])
    x = torch.zeros(2, 1, 1, 1)
    assert torch.allclose(Entropy()(x, z), Entropy()(x, z + 5), atol=1e-5)
    assert Entropy()(x, z)[1].item() == 0


# -- thresholds ----------------------------------------------------------------------------------

# Few different values, so that ties are common.
tied_scores = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.5, 1.0, 2.0]), min_size=1, max_size=25)


def smallest(scores: list[float], allowed) -> float | None:  # type: ignore[no-untyped-def]
    """The smallest of the scores that is allowed as a threshold; scores are where rates change."""
    fine = [t for t in sorted(set(scores)) if allowed(t)]
    return fine[0] if fine else None


@given(tied_scores, st.sampled_from([0.0, 0.01, 0.05, 0.1, 0.2, 0.5, 0.99]))
def test_false_positive_threshold_is_the_smallest_that_keeps_the_rate(
    scores: list[float], rate: float
) -> None:
    n = len(scores)

    def allowed(t: float) -> bool:
        return sum(s > t for s in scores) <= rate * n + 1e-9

    got = by_false_positives(torch.tensor(scores), rate)
    assert got.value == smallest(scores, allowed)
    assert got.rejected == pytest.approx(sum(s > got.value for s in scores) / n)
    assert (got.rule, got.level, got.n) == ("fpr", rate, n)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), st.booleans()),
        min_size=1,
        max_size=25,
    ),
    st.floats(0, 1),
    st.sampled_from([0.0, 0.01, 0.1, 0.3]),
)
def test_accuracy_threshold_is_the_smallest_that_keeps_the_accuracy(
    pairs: list[tuple[float, bool]], reference: float, loss: float
) -> None:
    n = len(pairs)

    def allowed(t: float) -> bool:
        return sum(c and s <= t for s, c in pairs) >= (reference - loss) * n - 1e-9

    scores = [s for s, _ in pairs]
    got = by_accuracy_loss(
        torch.tensor(scores), torch.tensor([c for _, c in pairs]), reference, loss
    )
    expected = smallest(scores, allowed)
    # Where no threshold reaches the demand, nothing is rejected.
    assert got.value == (max(scores) if expected is None else expected)
    assert got.rejected == pytest.approx(sum(s > got.value for s in scores) / n)
    assert (got.rule, got.level, got.n) == ("accuracy", loss, n)


def test_thresholds_by_hand() -> None:
    scores = torch.arange(100.0)
    assert by_false_positives(scores, 0.01).value == 98
    assert by_false_positives(scores, 0.05).value == 94
    assert by_false_positives(scores, 0.0).value == 99
    assert by_false_positives(scores, 0.01).rejected == pytest.approx(0.01)
    correct = torch.ones(100, dtype=torch.bool)
    correct[::10] = False  # ten wrong ones: accuracy 0.9
    # 89 correct ones must stay: only the largest correct score, 99, may go.
    assert by_accuracy_loss(scores, correct, 0.9, 0.01).value == 98
    # A reference below the vote's own accuracy spends the gain on rejections.
    assert by_accuracy_loss(scores, correct, 0.81, 0.01).value == 88


@pytest.mark.parametrize("bad", [[], [math.nan, 1.0], [math.inf]])
def test_scores_must_be_finite_and_there(bad: list[float]) -> None:
    with pytest.raises(ValueError, match="scores"):
        by_false_positives(torch.tensor(bad), 0.01)
    with pytest.raises(ValueError, match="scores"):
        by_accuracy_loss(torch.tensor(bad), torch.ones(len(bad)), 0.9, 0.01)


@pytest.mark.parametrize("rate", [-0.01, 1.0, 5.0])
def test_rates_outside_the_unit_interval_are_refused(rate: float) -> None:
    with pytest.raises(ValueError, match="rate"):
        by_false_positives(torch.ones(3), rate)


def test_as_many_answers_as_scores_and_a_threshold_that_is_a_number() -> None:
    with pytest.raises(ValueError, match="correct"):
        by_accuracy_loss(torch.ones(3), torch.ones(2), 0.9)
    with pytest.raises(ValueError, match="NaN"):
        Threshold(math.nan, "given", 0, 0, 0)


# -- rejection -----------------------------------------------------------------------------------


class Given(Score):
    """The score is the image's first value."""

    facts = facts()

    def forward(self, x: Tensor, logits: Tensor) -> Tensor:
        return x[:, 0, 0, 0]


@given(
    st.lists(st.floats(0, 1, width=32), min_size=1, max_size=10),
    st.floats(0, 1, width=32),
)
def test_the_rejection_wins_exactly_above_the_threshold(
    scores: list[float], threshold: float
) -> None:
    x = torch.zeros(len(scores), 3, 8, 8)
    x[:, 0, 0, 0] = torch.tensor(scores)
    model = Rejecting(small_net(), Given(), threshold)
    with torch.no_grad():
        rejected = model(x).argmax(1) == 4
    assert rejected.tolist() == [s > threshold for s in scores]


def test_a_score_at_the_threshold_is_accepted() -> None:
    x = torch.full((1, 3, 8, 8), 0.625)
    net = small_net()
    with torch.no_grad():
        above = float(torch.nextafter(torch.tensor(0.625), torch.tensor(0.0)))
        assert Rejecting(net, Given(), 0.625)(x).argmax(1).item() < 4
        assert Rejecting(net, Given(), above)(x).argmax(1).item() == 4


@pytest.mark.parametrize("scale", [0.0, 1.0, 300.0])
def test_rounding_decides_nothing(scale: float) -> None:
    """Also with sure networks and hair's breadths around the threshold."""

    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = small_net()

        def forward(self, x: Tensor) -> Tensor:
            return scale * self.net(x)

    x = blobs(200, seed=8)
    model, near = Scaled(), 0.3 + 1e-7 * torch.arange(-100, 100)
    x[:, 0, 0, 0] = near
    with torch.no_grad():
        rejected = Rejecting(model, Given(), 0.3)(x).argmax(1) == 4
    assert torch.equal(rejected, x[:, 0, 0, 0] - 0.3 > 0)


def test_the_other_outputs_are_the_models_log_probabilities(x: Tensor) -> None:
    net = small_net()
    with torch.no_grad():
        out = Rejecting(net, Entropy(), 0.5)(x)
        assert torch.allclose(out[:, :4], net(x).log_softmax(1))
        score = Entropy()(x, net(x))
        assert torch.allclose(out[:, 4] - out[:, :4].amax(1), score - 0.5, atol=2e-5)


@pytest.mark.parametrize("threshold", [0.0, 0.3, 0.8, 1.2, 1e6, -1e6])
def test_the_evasion_margin_agrees_with_what_the_guard_answers(threshold: float) -> None:
    model, x = Rejecting(small_net(), Entropy(), threshold), blobs(100, seed=6)
    y = torch.arange(100) % 4
    with torch.no_grad():
        out = model(x)
    answers = out.argmax(1)
    evaded = (answers != y) & (answers != 4)
    assert torch.equal(evasion_margin(out, y) > 0, evaded)
    if abs(threshold) == 1e6:
        assert bool((answers == 4).all()) == (threshold < 0)


def test_thresholds_may_be_exchanged_and_networks_stay_shared() -> None:
    net = small_net()
    guard = Rejecting(net, Entropy(), 0.5)
    other = guard.at(Threshold(0.9, "fpr", 0.01, 0.01, 100))
    assert other.threshold.value == 0.9
    assert guard.threshold.value == 0.5
    assert other.model is net
    assert bare(other) is net
    assert "0.9" in repr(other)


# -- calibration ---------------------------------------------------------------------------------


def doubtful(n: int = 200) -> tuple[nn.Module, Tensor, Tensor]:
    """A network, images and labels, a tenth of which it gets wrong."""
    net, x = small_net(), blobs(n, seed=3)
    with torch.no_grad():
        y = net(x).argmax(1)
    y[::10] = (y[::10] + 1) % 4
    return net, x, y


@pytest.mark.parametrize("level", [0.01, 0.05, 0.2])
def test_false_positives_are_kept_on_the_calibration_images(level: float) -> None:
    net, x, y = doubtful()
    guard = calibrate(net, Entropy(), x, y, rule="fpr", level=level)
    with torch.no_grad():
        rejected = (guard(x).argmax(1) == 4).sum().item()
    assert rejected == math.floor(level * 200 + 1e-9)
    assert guard.threshold.rejected == pytest.approx(rejected / 200)


@pytest.mark.parametrize("batch_size", [1, 64, 256])
def test_accuracy_is_kept_on_the_calibration_images(batch_size: int) -> None:
    net, x, y = doubtful()
    guard = calibrate(net, Entropy(), x, y, level=0.03, batch_size=batch_size)
    with torch.no_grad():
        correct = (guard(x).argmax(1) == y).sum().item()
    assert correct == 174  # of 180, less 3% of 200


def test_what_a_vote_gains_is_spent_on_rejections() -> None:
    net, x, y = doubtful()
    single = nn.Sequential(Subsample(rate=0.3), net)
    vote = Vote(single, draws=10)
    with seeded("calibrate"):
        own = calibrate(vote, Entropy(), x, y, level=0.01)
    with seeded("calibrate"):
        paper = calibrate(vote, Entropy(), x, y, level=0.01, single=single)
    assert paper.threshold.rejected > own.threshold.rejected
    assert paper.threshold.rule == "accuracy"


@pytest.mark.parametrize("alone", [False, True])
def test_a_random_model_is_held_to_its_own_answers(alone: bool) -> None:
    """Held to other draws it may have no point to lose, and would never reject."""
    net, x, y = doubtful()
    model = nn.Sequential(Subsample(rate=0.3), net)
    for seed in range(8):
        with seeded("calibrate", seed):
            single = None if alone else model
            guard = calibrate(model, Entropy(), x, y, level=0.05, single=single)
        with torch.no_grad(), seeded("calibrate", seed):
            log_p = model(x).log_softmax(1)
        right = log_p.argmax(1) == y
        kept = right & (Entropy()(x, log_p) <= guard.threshold.value)
        assert right.sum() - kept.sum() == math.floor(0.05 * len(x))


class Fickle(Part):
    """Right in every other pass."""

    facts = facts(stochastic=True)

    def __init__(self, y: Tensor) -> None:
        super().__init__()
        self.y, self.calls = y, 0

    def undefended(self) -> nn.Module:
        return nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return nn.functional.one_hot((self.y + self.calls % 2) % 5, 5).float()


@pytest.mark.parametrize(("draws", "passes"), [(2, 2), (4, 4), (20, 10)])
def test_a_vote_is_held_to_the_mean_of_as_many_passes(draws: int, passes: int) -> None:
    net, x, y = doubtful()
    vote = Vote(nn.Sequential(Subsample(rate=0.3), net), draws=draws)
    single = Fickle(y)
    with seeded("calibrate"):
        guard = calibrate(vote, Entropy(), x, y, level=0.1, single=single, batch_size=len(x))
    assert single.calls == passes
    with torch.no_grad(), seeded("calibrate"):
        log_p = vote(x).log_softmax(1)
    kept = (log_p.argmax(1) == y) & (Entropy()(x, log_p) <= guard.threshold.value)
    assert kept.double().mean() == pytest.approx(0.4)  # half of the passes are right, less 0.1


def test_a_single_model_without_randomness_is_asked_once() -> None:
    net, x, y = doubtful(50)
    single = Fickle(y)
    single.facts = facts(stochastic=False)
    vote = Vote(nn.Sequential(Subsample(rate=0.3), net), draws=4)
    calibrate(vote, Entropy(), x, y, single=single)
    assert single.calls == 1


def test_calibration_is_done_in_eval_mode_and_modes_are_put_back() -> None:
    net, x, y = doubtful()
    expected = calibrate(net, Entropy(), x, y).threshold
    net.train()
    next(net.children()).eval()
    modes = [m.training for m in net.modules()]
    state = {k: v.clone() for k, v in net.state_dict().items()}
    assert calibrate(net, Entropy(), x, y).threshold == expected
    assert [m.training for m in net.modules()] == modes
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())


class View:
    """Images that are read when they are asked for; those from `spoilt` on are out of range."""

    def __init__(self, images: Tensor, spoilt: int | None = None, lost: int = 0) -> None:
        self.images, self.shape = images.clone(), images.shape
        self.images[len(images) if spoilt is None else spoilt :] = 2.0
        self.lost, self.most = lost, 0

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, which: slice | Tensor) -> Tensor:
        part = self.images[which]
        self.most = max(self.most, len(part))
        return part[self.lost :]


@pytest.mark.parametrize("rule", ["accuracy", "fpr"])
def test_calibration_reads_a_view_in_batches(rule: Literal["accuracy", "fpr"]) -> None:
    net, x, y = doubtful(50)
    view, single = View(x), small_net(seed=5)
    for reference in (None, single):
        got = calibrate(net, Entropy(), view, y, rule=rule, single=reference, batch_size=16)
        kept = calibrate(net, Entropy(), x, y, rule=rule, single=reference, batch_size=16)
        assert got.threshold == kept.threshold
        assert got.threshold.n == 50
    assert view.most == 16


def test_what_cannot_be_calibrated_on_is_refused() -> None:
    net, x, y = doubtful(50)
    cases: list[tuple[Any, Tensor, Any, str]] = [
        (View(x, spoilt=40), y, {}, r"`x\[32:48\]` must lie in \[0, 1\]"),
        (View(x, lost=1), y, {}, r"`x\[0:16\]` must be \(16, 3, .*\).* got \(15,"),
        (x, y[:-1], {}, r"`y` must have shape \(50,\)"),
        (x, y, {"rule": "best"}, "accuracy or fpr.* got 'best'"),
    ]
    for bad, labels, more, message in cases:
        with pytest.raises(ValueError, match=message):
            calibrate(net, Entropy(), bad, labels, **{"batch_size": 16, **more})


def test_the_demand_is_that_of_the_single_model() -> None:
    net, x, y = doubtful()
    with torch.no_grad():
        log_p = net(x).log_softmax(1)
    least = (-(log_p.exp() * log_p).sum(1)).min().item()
    wrong = Always(net(x[:1]).shape[1], int((torch.bincount(y, minlength=5) == 0).nonzero()[0]))
    guard = calibrate(net, Entropy(), x, y, single=wrong)
    assert guard.threshold.value == pytest.approx(least, rel=1e-5)  # nothing is demanded


class Always(nn.Module):
    """Answers with one class."""

    def __init__(self, classes: int, answer: int) -> None:
        super().__init__()
        self.classes, self.answer = max(classes, answer + 1), answer

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.one_hot(torch.full((len(x),), self.answer), self.classes).to(x)
