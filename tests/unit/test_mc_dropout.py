"""Doubt by the network's own dropout (Feinman et al. 2017), and by the histogram of labels."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from redoubtable.defenses import MVM, Vote, insert_units
from redoubtable.detectors import (
    DropoutVariance,
    Entropy,
    OwnDropout,
    Rejecting,
    histogram_entropy,
)
from redoubtable.evaluation import guarded
from redoubtable.gradients import answers, fast_copy
from redoubtable.models import create
from redoubtable.parts import bare
from redoubtable.seeding import seeded
from tests.networks import blobs, small_net


class Dropping(nn.Module):
    """Dropout as a module and as a function, in and out of place, and a batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.linear = nn.Linear(3 * 64, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.drop(self.norm(x)).flatten(1)
        return self.linear(F.dropout(x, 0.25, self.training, True))


@pytest.fixture
def net() -> nn.Module:
    with seeded("net"):
        return Dropping().eval()


def test_only_the_dropouts_drop(net: nn.Module) -> None:
    x = torch.ones(2000, 3, 8, 8)
    with torch.no_grad():
        net.linear.weight.zero_()
        net.linear.weight[0, 0] = 1.0
        net.linear.bias.zero_()
        with seeded("draw"):
            found = OwnDropout(net)(x)[:, 0]
        plain = net(x)[0, 0]
    kept = found != 0
    assert kept.double().mean().item() == pytest.approx(0.5 * 0.75, abs=0.04)
    torch.testing.assert_close(found[kept], (plain / (0.5 * 0.75)).expand(int(kept.sum())))
    assert not net.training and not net.drop.training
    assert torch.equal(net.norm.running_mean, torch.zeros(3))
    assert torch.equal(net(x), net(x))


def test_the_variance_is_the_mean_over_classes_of_that_of_the_softmax(net: nn.Module) -> None:
    x = blobs(5)
    score = DropoutVariance(net, draws=7).eval()
    with seeded("score"), torch.no_grad():
        found = score(x, net(x))
    with seeded("score"), torch.no_grad():
        softmax = answers(OwnDropout(net), x, 7).softmax(2).numpy()
    torch.testing.assert_close(found, torch.from_numpy(softmax.var(0).mean(1)))
    assert (found > 0).all()


def test_a_network_without_dropout_is_refused() -> None:
    with pytest.raises(ValueError, match="no dropout of its own"):
        OwnDropout(small_net())(blobs(2))
    with pytest.raises(ValueError, match="at least 2 `draws`"):
        DropoutVariance(small_net(), draws=1)


def test_a_fast_copy_drops_too() -> None:
    with seeded("net"):
        net = create("feinman_mnist", size=16).eval()
    copied = fast_copy(OwnDropout(net), blobs(2, 1, 16, 16))
    x = blobs(3, 1, 16, 16)
    assert not torch.equal(copied(x), copied(x))
    assert torch.equal(bare(copied.searched)(x), bare(copied.searched)(x))


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3] * 100, 0.0),
        ([0] * 50 + [1] * 50, math.log(2)),
        ([0] * 97 + [1] * 3, -0.97 * math.log(0.97) - 0.03 * math.log(0.03)),
        (list(range(10)) * 10, math.log(10)),
    ],
)
def test_the_entropy_of_a_histogram_by_hand(labels: list[int], expected: float) -> None:
    found = histogram_entropy(torch.tensor([labels, [1] * 100]), 10)
    assert found.tolist() == pytest.approx([expected, 0.0])


def test_labels_that_are_none_are_refused() -> None:
    for labels in (
        torch.tensor([0, 1]),
        torch.zeros(2, 0),
        torch.tensor([[4]]),
        torch.tensor([[-1]]),
    ):
        with pytest.raises(ValueError, match="`labels`"):
            histogram_entropy(labels, 4)


def test_a_vote_of_labels_has_the_entropy_of_its_histogram() -> None:
    """Through the guard: without the one vote that `Vote` spreads over the classes."""
    net, x = small_net(), blobs(12)
    model = insert_units(net, MVM(0.2, "layer"))
    vote, score = Vote(model, draws=20, count="labels"), Entropy(votes=20)
    with seeded("look"), torch.no_grad():
        found = score(x, vote(x).log_softmax(1))
    with seeded("look"), torch.no_grad():
        labels = answers(model, x, 20).argmax(2).T
    expected = histogram_entropy(labels, 4)
    assert expected.max() > 1 > expected.min()
    torch.testing.assert_close(found, expected.float(), atol=1e-5, rtol=0)
    guard = Rejecting(vote, score, 1.0)
    with seeded("look"), torch.no_grad():
        rejected = guard(x).argmax(1) == 4
    assert torch.equal(rejected, expected > 1.0)


def test_the_entropy_of_votes_has_a_gradient_where_all_agree() -> None:
    logits = torch.log_softmax(torch.tensor([[9.0, 0.0, 0.0, 0.0]]), 1).requires_grad_()
    Entropy(votes=10)(blobs(1), logits).sum().backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    with pytest.raises(ValueError, match="`votes`"):
        Entropy(votes=0)


def test_a_command_lines_words_make_the_papers_detector() -> None:
    net, x = small_net(), blobs(40)
    with torch.no_grad():
        y = net(x).argmax(1)
    words = [
        "mvm:share=0.3,counts=layer",
        "vote:draws=10,count=labels",
        "reject:score=entropy:votes=10,rule=fpr,level=0.1",
    ]
    model = guarded(net, words, (x, y))
    assert isinstance(model, Rejecting) and isinstance(model.score, Entropy)
    assert model.score.votes == 10 and model.threshold.rejected <= 0.1
    assert bare(model) is net


@pytest.mark.parametrize(
    "vote", ["vote:draws=20,count=labels", "vote:draws=10", "vote:draws=10,count=probabilities"]
)
def test_an_entropy_of_other_votes_than_there_are_is_refused(vote: str) -> None:
    x = blobs(40)
    words = ["mvm:share=0.3,counts=layer", vote, "reject:score=entropy:votes=10"]
    with pytest.raises(ValueError, match="put `vote:draws=10,count=labels` before it"):
        guarded(small_net(), words, (x, torch.zeros(40, dtype=torch.long)))


def test_a_transform_may_stand_before_the_votes() -> None:
    x = blobs(40)
    words = [
        "mvm:counts=layer",
        "vote:draws=10,count=labels",
        "bit_depth",
        "reject:score=entropy:votes=10",
    ]
    model = guarded(small_net(), words, (x, torch.zeros(40, dtype=torch.long)))
    assert isinstance(model, Rejecting)


def test_a_score_with_a_network_gets_the_one_without_any_defense(net: nn.Module) -> None:
    x = blobs(40)
    words = ["subsample:rate=0.5", "reject:score=dropout_variance:draws=5,rule=fpr,level=0.1"]
    model = guarded(net, words, (x, torch.zeros(40, dtype=torch.long)))
    assert isinstance(model, Rejecting) and isinstance(model.score, DropoutVariance)
    assert model.score.draws == 5
    assert model.score.dropping.network is net
