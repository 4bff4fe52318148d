"""What would disarm an attack or flatter a model in silence is refused, or found."""

import math

import pytest
import torch
from torch import Tensor, nn

from redoubtable import L0, L1, Linf, Settings, bim, evaluate, fgsm, pgd
from redoubtable.attacks import ATTACKS
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.losses import LOSSES
from redoubtable.parts import Facts, Part
from redoubtable.types import check_images
from tests.networks import blobs, small_net

FEW = Settings(draws=2)


@pytest.fixture
def x() -> Tensor:
    return blobs(12)


@pytest.fixture
def y() -> Tensor:
    return torch.arange(12) % 4


@pytest.mark.parametrize("attack", [pgd, bim])
@pytest.mark.parametrize(
    ("argument", "value"),
    [
        ("step_size", 0.0), ("step_size", -0.1), ("momentum", -0.1), ("momentum", 1.1),
        ("steps", 0), ("steps", 10**9), ("success", LOSSES["cross_entropy"].obj),
        ("success", LOSSES["evasion_margin"].obj), ("loss", LOSSES["evasion_margin"].obj),
    ],
)  # fmt: skip
def test_arguments_that_disarm_an_attack_are_refused(attack, argument, value, x, y) -> None:
    with pytest.raises(ValueError, match=argument):
        attack(small_net(), x, y, Linf(0.1), **{argument: value})


def test_a_single_step_refuses_the_losses_of_another_kind_of_model(x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match="evasion_margin"):
        fgsm(small_net(), x, y, Linf(0.1), loss=LOSSES["evasion_margin"].obj)


def test_a_loss_of_the_callers_own_is_taken(x: Tensor, y: Tensor) -> None:
    x_adv = pgd(small_net(), x, y, Linf(0.1), loss=lambda z, c: -z.gather(1, c[:, None]).squeeze(1))
    assert x_adv.shape == x.shape


@pytest.mark.parametrize("threat", [Linf(math.inf), L0(math.inf), L1(math.inf)])
def test_an_infinite_radius_has_no_robust_accuracy(threat, x, y, tmp_path) -> None:
    with pytest.raises(ValueError, match="finite"):
        evaluate(small_net(), x, y, threat, "pgd:step_size=1.0", out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_forgotten_255_is_noticed(x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match="Linf:8/255"):
        evaluate(small_net(), x, y, Linf(8), "fgsm")


def test_half_precision_images_are_refused() -> None:
    with pytest.raises(TypeError, match="float32"):
        check_images(torch.ones(1, 1, 1, 1).half())


class NaNs(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return small_net()(x) + torch.where(x.flatten(1).sum(1) > 0, math.nan, 0.0)[:, None]


def test_answers_of_nan_are_no_answers(x: Tensor, y: Tensor) -> None:
    with pytest.raises(ValueError, match="NaN"):
        evaluate(NaNs(), x, y, Linf(0.1), "fgsm", settings=FEW)


class NaNGradient(nn.Module):
    """The right logits, with a gradient of NaN."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + (0 * x).flatten(1).sum(1, keepdim=True).sqrt()


def test_gradients_of_nan_are_found(x: Tensor, y: Tensor) -> None:
    e = evaluate(NaNGradient(), x, y, Linf(0.1), "pgd:steps=2", settings=FEW, curve=())
    assert {f["check"]: f["verdict"] for f in e.record["findings"]}["gradients"] == "fail"


@pytest.mark.parametrize("threshold", [math.nan, math.inf])
def test_a_threshold_is_a_number(threshold: float) -> None:
    with pytest.raises(ValueError, match="threshold"):
        Rejecting(small_net(), Entropy(), threshold)


class Sprinkled(Part):
    """A linear model behind noise so strong that one draw says next to nothing."""

    facts = Facts(
        stochastic=True, differentiable=True, batch_dependent=False, abstains=False, passes=1
    )

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.randn_like(x).mul(6).add(1)

    def undefended(self) -> nn.Module:
        return nn.Identity()


def test_momentum_averages_over_the_draws_of_earlier_steps() -> None:
    """Each coordinate's sign is a coin nearly fair; the running sum finds the true one."""
    g = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 3, 8, 8, generator=g)
    net = nn.Sequential(nn.Flatten(), nn.Linear(192, 2, bias=False))
    with torch.no_grad():
        net[1].weight.copy_(weight.flatten(1))
    model, x = nn.Sequential(Sprinkled(), net), torch.full((40, 3, 8, 8), 0.5)
    y = torch.zeros(40, dtype=torch.int64)
    direction = (weight[1] - weight[0]).flatten()

    def gain(momentum: float) -> float:
        torch.manual_seed(0)
        x_adv = bim(model, x, y, Linf(0.1), steps=40, momentum=momentum)
        return ((x_adv - x).flatten(1) @ direction).mean().item()

    assert gain(0.9) > 1.3 * gain(0.0) > 0


def test_every_attack_takes_text_for_what_it_can_be_told() -> None:
    for attack in ATTACKS:
        bound = ATTACKS.bind(attack.name)
        assert "targets" not in bound.arguments
        with pytest.raises(ValueError, match="targets"):
            ATTACKS.bind(f"{attack.name}:targets=1")
