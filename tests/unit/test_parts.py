"""Facts have no defaults, are joined over a model, and parts can be taken out."""

import pytest
import torch
from torch import Tensor, nn

from redoubtable.defenses import Subsample, Vote
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.parts import PLAIN, Facts, Part, bare, facts_of, in_eval_mode, parts_of
from tests.networks import RandomScale, blobs, facts, small_net


def test_facts_have_no_defaults_and_are_frozen() -> None:
    with pytest.raises(TypeError):
        Facts()  # type: ignore[call-arg]
    with pytest.raises(TypeError):
        Facts(stochastic=True)  # type: ignore[call-arg]
    with pytest.raises(AttributeError):
        PLAIN.stochastic = True  # type: ignore[misc]


def test_a_part_without_facts_cannot_be_built() -> None:
    class Silent(Part):
        def undefended(self) -> nn.Module:
            return nn.Identity()

    with pytest.raises(TypeError, match="facts"):
        Silent()  # type: ignore[abstract]


def test_a_part_that_cannot_be_taken_out_cannot_be_built() -> None:
    class Stuck(Part):
        facts = facts()

    with pytest.raises(TypeError, match="undefended"):
        Stuck()  # type: ignore[abstract]


class Stating(Part):
    """States what it is told."""

    facts = PLAIN

    def __init__(self, inner: nn.Module, stated: Facts) -> None:
        super().__init__()
        self.inner = inner
        self.facts = stated  # type: ignore[misc]

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)

    def undefended(self) -> nn.Module:
        return self.inner


def test_a_plain_model_has_the_plain_facts() -> None:
    assert facts_of(small_net()) == PLAIN == facts()
    assert parts_of(small_net()) == []


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ((facts(stochastic=True), facts()), facts(stochastic=True)),
        ((facts(), facts(differentiable=False)), facts(differentiable=False)),
        ((facts(batch_dependent=True), facts()), facts(batch_dependent=True)),
        ((facts(), facts(abstains=True)), facts(abstains=True)),
        ((facts(passes=3), facts(passes=5)), facts(passes=15)),
    ],
)
def test_facts_are_joined_over_the_parts(stated: tuple[Facts, Facts], expected: Facts) -> None:
    model = nn.Sequential(Stating(Stating(small_net(), stated[1]), stated[0]))
    assert facts_of(model) == expected


def test_parts_are_listed_outermost_first() -> None:
    model = Rejecting(Vote(nn.Sequential(Subsample(rate=0.5), small_net())), Entropy(), 1.0)
    assert [type(p).__name__ for p in parts_of(model)] == [
        "Rejecting", "Vote", "Subsample", "Entropy",
    ]  # fmt: skip


def test_a_model_without_parts_is_its_own_bare_model() -> None:
    net = small_net()
    assert bare(net) is net


def test_all_parts_are_taken_out_and_the_model_stays_as_it_is() -> None:
    net = small_net()
    model = Rejecting(
        Vote(nn.Sequential(Subsample(rate=0.5), RandomScale(net)), draws=2), Entropy(), 1.0
    )
    text = repr(model)
    assert bare(model) is net
    assert repr(model) == text


class Wrapped(nn.Module):
    """A plain module with a part deep inside, and more after it."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Identity(), Subsample(rate=0.9))
        self.net = small_net()
        self.scale = 3.0

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.net(self.front(x))


def test_parts_inside_plain_modules_are_taken_out_too() -> None:
    model, x = Wrapped(), blobs(4)
    stripped = bare(model)
    with torch.no_grad():
        assert torch.equal(stripped(x), 3.0 * model.net(x))
        assert not torch.equal(model(x), model(x))
    assert parts_of(model)
    assert not parts_of(stripped)
    assert stripped.net is model.net  # type: ignore[attr-defined]


def test_other_preprocessing_stays_in_the_bare_model() -> None:
    class Invert(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return 1 - x

    net, x = small_net(), blobs(4)
    with torch.no_grad():
        stripped = bare(nn.Sequential(Invert(), Subsample(rate=0.5), net))
        assert torch.equal(stripped(x), net(1 - x))


def test_a_part_asks_for_no_special_objective_by_default() -> None:
    assert Subsample(0.9).objectives() == ()


def test_eval_mode_ends_with_the_block_and_modes_come_back_also_after_an_error() -> None:
    net = small_net()
    net.train()
    net.bn1.eval()
    modes = {name: m.training for name, m in net.named_modules()}
    assert len(set(modes.values())) == 2
    with in_eval_mode(net) as same:
        assert same is net
        assert not any(m.training for m in net.modules())
    assert {name: m.training for name, m in net.named_modules()} == modes
    with pytest.raises(ZeroDivisionError), in_eval_mode(net), in_eval_mode(net.bn1):
        raise ZeroDivisionError
    assert {name: m.training for name, m in net.named_modules()} == modes


def test_modes_come_back_of_a_model_that_breaks_half_way_into_eval_mode() -> None:
    class Refuses(nn.Module):
        def train(self, mode: bool = True) -> nn.Module:
            raise RuntimeError("refused")

    net = nn.Sequential(nn.Dropout(), Refuses())
    with pytest.raises(RuntimeError, match="refused"), in_eval_mode(net):
        pass
    assert all(m.training for m in net.modules())
