"""Models that abstain: what counts, detection, thresholds, guards from their description."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redoubtable.defenses import Subsample, Vote
from redoubtable.detectors import Entropy, Rejecting, Threshold, calibrate
from redoubtable.evaluation import Settings, guarded
from redoubtable.parts import Facts, Part, facts_of
from redoubtable.seeding import seeded
from redoubtable.threat import Linf, ThreatModel
from redoubtable.types import Images, Labels
from tests.networks import LinearModel, blobs, facts, small_net
from tests.unit.evaluation.parts import Register, chosen_by_hand, guard, models, quick

# -- abstention ----------------------------------------------------------------------------------


class Written(Part):
    """Answers what is written in an image's first value: 0.1, 0.3, 0.5 for 0, 1, rejection."""

    facts = facts(abstains=True)

    def forward(self, x: Tensor) -> Tensor:
        answer = ((x[:, 0, 0, 0] * 10 - 1) / 2).round().long().clamp(0, 2)
        return nn.functional.one_hot(answer, 3).to(x) + 0 * x.sum((1, 2, 3))[:, None]

    def undefended(self) -> nn.Module:
        return LinearModel(torch.ones(2, 1, 2, 2))


def test_a_rejection_is_an_error_on_clean_images_and_defends_against_attacks(
    register: Register,
) -> None:
    written = {0: 0.1, 1: 0.3, "reject": 0.5}
    labels = [0, 0, 0, 0, 0, 1, 1, 1]
    before = [0, 0, 1, "reject", 0, 1, 1, "reject"]
    after = [0, 1, 1, "reject", "reject", 0, 1, 0]
    x = torch.full((8, 1, 2, 2), 0.9)
    x_adv = x.clone()
    x[:, 0, 0, 0] = torch.tensor([written[b] for b in before])
    x_adv[:, 0, 0, 0] = torch.tensor([written[a] for a in after])

    @register("writer")
    def writer(
        model: nn.Module, x: Images, y: Labels, threat: ThreatModel, *, targets: Any = None
    ) -> Images:
        """Write other answers."""
        return x_adv.clone()

    e = quick(Written(), x, torch.tensor(labels), Linf(0.5), "writer")
    assert e.clean_accuracy == 5 / 8
    assert e.record["clean"]["rejected"]["value"] == 2 / 8
    row = next(r for r in e.record["rows"] if r["view"] == "adaptive")
    assert row["accuracy"]["one_shot"]["value"] == 4 / 8  # right at 0 and 6, rejected at 3 and 4
    assert row["strict"]["one_shot"]["value"] == 2 / 8
    assert row["rejected"]["value"] == 2 / 8
    # The worst of the clean image and the attack: image 7 was rejected, image 2 was wrong anyway.
    assert e.robust_accuracy == 4 / 8
    assert e.record["robust"]["strict"]["one_shot"]["value"] == 2 / 8


def test_detection_is_of_clean_against_adversarial_images(x: Tensor, y: Tensor) -> None:
    e = quick(guard(), x, y, Linf(0.05), "pgd:steps=3,loss=cross_entropy")
    clean, attacked = e.arrays["clean/suspicion"][:, 0], None
    rows = [f"{r['view']}/{r['attack']}" for r in e.record["rows"]]
    labels = y.numpy()
    tables = [
        ((e.arrays[f"{p}/selection"] == labels[:, None]) | (e.arrays[f"{p}/selection"] == 4))
        for p in rows
    ]
    worst = chosen_by_hand([t.tolist() for t in tables])
    attacked = np.array([e.arrays[f"{rows[c]}/suspicion"][i, 0] for i, c in enumerate(worst)])
    pairs = (attacked[:, None] > clean).mean() + 0.5 * (attacked[:, None] == clean).mean()
    assert e.record["detection"]["auc"]["value"] == pytest.approx(pairs)
    roc = e.record["detection"]["roc"]
    assert (roc["fpr"][0], roc["tpr"][0], roc["fpr"][-1], roc["tpr"][-1]) == (0, 0, 1, 1)
    assert np.all(np.diff(roc["fpr"]) >= 0)
    assert np.all(np.diff(roc["tpr"]) >= 0)


def test_detection_is_of_all_draws_of_a_random_guard(x: Tensor, y: Tensor) -> None:
    """The area is what two single answers tell, over every pair of draws; its n is of images."""
    model = models()["random and abstaining"]
    e = quick(model, x, y, Linf(0.05), "fgsm:loss=evasion_margin", settings=Settings(draws=5))
    view = e.record["detection"]["views"]["adaptive"]
    (name,) = (k for k in e.arrays if k.startswith("adaptive") and k.endswith("/suspicion"))
    clean, attacked = e.arrays["clean/suspicion"], e.arrays[name]
    assert clean.shape == attacked.shape == (30, 5)
    pairs = (attacked.ravel()[:, None] > clean.ravel()).mean()
    assert view["auc"]["value"] == pytest.approx(pairs, abs=1e-6)
    first = (attacked[:, :1] > clean[:, 0]).mean()
    assert abs(first - pairs) > 1e-3, "a test that can't tell"
    assert view["auc"]["n"] == 30


def test_rates_of_some_images_are_those_of_an_evaluation_of_them(x: Tensor, y: Tensor) -> None:
    settings, held_out = Settings(chunk=10), blobs(40, seed=9)
    arguments: dict[str, Any] = {"held_out": held_out, "settings": settings}
    some = quick(guard(), x, y, Linf(0.05), "fgsm", rate_images=10, **arguments)
    alone = quick(guard(), x[:10], y[:10], Linf(0.05), "fgsm", **arguments)
    assert some.record["rates"] == alone.record["rates"]
    assert some.record["rates"][0]["clean"]["accuracy"]["one_shot"]["n"] == 10
    every = quick(guard(), x, y, Linf(0.05), "fgsm", **arguments)
    assert every.record["rates"][0]["clean"]["accuracy"]["one_shot"]["n"] == 30
    assert every.record["adaptive"] == some.record["adaptive"]


def test_suspicion_is_above_zero_exactly_where_the_image_is_rejected(x: Tensor, y: Tensor) -> None:
    e = quick(guard(), x, y, Linf(0.05))
    assert ((e.arrays["clean/suspicion"] > 0) == (e.arrays["clean/report"] == 4)).all()
    assert (e.arrays["clean/report"] == 4).any()


@pytest.mark.parametrize("threshold", [0.4, 0.9, 1.3])
def test_false_positive_rates_hold_on_the_held_out_images(
    threshold: float, x: Tensor, y: Tensor
) -> None:
    """The thresholds at 1% and 5%, used on the very images they were fitted on."""
    held_out, model = blobs(200, seed=9), guard(threshold)
    e = quick(model, x, y, Linf(0.02), "fgsm", held_out=held_out)
    assert [p["rate"] for p in e.record["rates"]] == [0.01, 0.05]
    for point in e.record["rates"]:
        again = model.at(Threshold(point["threshold"], "fpr", point["rate"], 0.0, 200))  # type: ignore[operator]
        with torch.no_grad():
            rejected = int((again(held_out).argmax(1) == 4).sum())
        assert rejected == round(point["rate"] * 200), "not the rate that the record states"
        assert point["held_out"] == 200
        clean = quick(again, x, y, Linf(0.02), "fgsm").record["clean"]
        assert point["clean"]["accuracy"]["one_shot"] == clean["accuracy"]["one_shot"]


def test_a_guard_falls_to_attacks_that_look_for_accepted_images() -> None:
    """Ranked by the plain margin, images that the guard rejects would be taken for successes."""
    model, x = guard(0.7), blobs(60)
    with torch.no_grad():
        y = model.model(x).argmax(1)  # type: ignore[operator, union-attr]
    e = quick(model, x, y, Linf(0.2), "pgd:steps=20")
    assert e.robust_accuracy < 0.1
    row = next(r for r in e.record["rows"] if r["view"] == "adaptive")
    assert row["rejected"]["value"] < 0.1


# -- guards from their description ---------------------------------------------------------------


def test_defenses_are_put_around_a_network_in_their_order() -> None:
    net, x = small_net(), blobs(60, seed=2)
    with torch.no_grad():
        y = net(x).argmax(1)
    texts = ["subsample:rate=0.2", "vote:draws=4", "reject:rule=fpr,level=0.1"]
    model = guarded(net, texts, (x, y))
    assert isinstance(model, Rejecting)
    assert isinstance(model.model, Vote)
    assert model.model.draws == 4
    stated = facts_of(model)
    assert (stated.stochastic, stated.abstains, stated.passes) == (True, True, 4)
    assert model.threshold.rejected == pytest.approx(0.1)
    again = guarded(copy.deepcopy(net), texts, (x, y))
    assert isinstance(again, Rejecting)
    assert again.threshold == model.threshold
    other = guarded(net, texts, (x, y), seed=1)
    assert isinstance(other, Rejecting)
    assert other.threshold != model.threshold


def test_the_reference_of_a_guarded_vote_is_a_single_pass() -> None:
    net, x = small_net(), blobs(200, seed=2)
    with torch.no_grad():
        y = net(x).argmax(1)
    model = guarded(net, ["subsample:rate=0.4", "vote:draws=8", "reject:level=0.02"], (x, y))
    assert isinstance(model, Rejecting)
    single = nn.Sequential(Subsample(rate=0.4), net)
    with torch.no_grad(), seeded("look"):
        one = (single(x).argmax(1) == y).double().mean().item()
        voted = (Vote(single, draws=8)(x).argmax(1) == y).double().mean().item()
        kept = (model(x).argmax(1) == y).double().mean().item()
    assert voted > one + 0.03
    assert kept == pytest.approx(one - 0.02, abs=0.05)


@pytest.mark.parametrize(
    ("texts", "held_out", "message"),
    [
        (["subsampel"], True, "did you mean subsample"),
        (["subsample:rat=0.5"], True, "did you mean rate"),
        (["subsample:rate=2"], True, "rate"),
        (["reject"], False, "held-out"),
        (["reject", "reject"], True, "another rejection"),
        (["reject:score=entropi"], True, "unknown score"),
        (["reject:rule=best"], True, "rule"),
    ],
)
def test_defenses_that_cannot_be_built_are_refused(
    texts: list[str], held_out: bool, message: str
) -> None:
    x = blobs(20)
    y = torch.zeros(20, dtype=torch.int64)
    with pytest.raises(ValueError, match=message):
        guarded(small_net(), texts, (x, y) if held_out else None)


def test_calibration_leaves_the_networks_alone() -> None:
    net, x = small_net(), blobs(40)
    y = torch.zeros(40, dtype=torch.int64)
    state = {k: v.clone() for k, v in net.state_dict().items()}
    calibrate(net, Entropy(), x, y, rule="fpr", level=0.1)
    assert all(torch.equal(v, state[k]) for k, v in net.state_dict().items())
    assert isinstance(facts_of(net), Facts)
