"""Transfer attacks see their surrogates, and the attacked model never."""

import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS, transfer
from redoubtable.attacks.surrogates import Folders
from redoubtable.losses import margin
from redoubtable.threat import L0, L1, L2, Linf, ThreatModel
from tests.networks import LinearModel
from tests.unit.attacks.targets_parts import behind
from tests.unit.test_oracle import answers, oracle


class Never(nn.Module):
    """A model that must not be asked."""

    def forward(self, x: Tensor) -> Tensor:
        raise AssertionError("the attacked model was asked")


@pytest.mark.parametrize("kind", [Linf, L2, L1])
@pytest.mark.parametrize("targeted", [False, True])
def test_what_fools_a_surrogate_like_the_model_fools_the_model(
    kind: type[ThreatModel], targeted: bool
) -> None:
    model, (x, y, distance) = oracle(kind)
    targets = 1 - y if targeted else None
    other = LinearModel(3 * model.weight.data, 3 * model.bias.data)
    found = transfer(Never(), x, y, kind(1.05 * distance), surrogates=[other], targets=targets)
    assert torch.equal(answers(model, found), 1 - y)


def test_a_target_behind_another_class_is_reached() -> None:
    model, x, y, targets = behind()
    found = transfer(Never(), x, y, L2(0.25), surrogates=[model], targets=targets)
    assert answers(model, found).tolist() == [1, 2]


def test_all_steps_are_taken_although_the_surrogate_is_fooled_before() -> None:
    model, (x, y, distance) = oracle(Linf)
    ball = Linf(5 * distance)
    found = transfer(Never(), x, y, ball, surrogates=[model])
    assert (Linf(1.0).distance(x, found) > 4.9 * distance).all()


def test_of_two_surrogates_the_mean_of_the_logits_counts() -> None:
    """One outvotes the other by the size of its logits: towards a third that neither has alone."""
    g = torch.Generator().manual_seed(0)
    slopes = torch.randn(2, 1, 4, 4, generator=g)
    networks = [LinearModel(torch.stack([-s, s]).double()) for s in slopes]
    x, y = torch.full((1, 1, 4, 4), 0.5).double(), torch.zeros(1, dtype=torch.long)
    found = transfer(Never(), x, y, Linf(0.1), surrogates=networks, loss=margin)
    assert torch.equal((found - x)[0].sign(), slopes.sum(0).sign().double())


def test_without_a_surrogate_it_is_refused() -> None:
    model, (x, y, _) = oracle(L2)
    with pytest.raises(ValueError, match="surrogates"):
        transfer(model, x, y, L0(3.0))


def test_folders_are_opened_once_and_named() -> None:
    opened: list[str] = []

    def load(folder: str) -> nn.Module:
        opened.append(folder)
        return nn.Flatten()

    folders = Folders()
    with pytest.raises(ValueError, match="zoo/a"):
        folders["zoo/a"]
    folders.open = load
    networks = folders["zoo/a; zoo/b"].obj
    again = folders["zoo/b"].obj
    assert opened == ["zoo/a", "zoo/b"]
    assert again[0] is networks[1]
    assert folders.name_of(networks) == "zoo/a;zoo/b"
    assert folders.name_of([nn.Flatten()]) is None


def test_the_text_form_names_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    words = ATTACKS._vocabularies["surrogates"]
    monkeypatch.setattr(words, "open", lambda folder: nn.Flatten())
    monkeypatch.setattr(words, "_opened", {})
    bound = ATTACKS.bind("transfer:steps=3,surrogates=zoo/a;zoo/b")
    assert bound.text == "transfer:steps=3,surrogates=zoo/a;zoo/b"
    assert len(bound.arguments["surrogates"]) == 2
