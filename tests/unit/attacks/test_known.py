"""Images that were made before, shown to other models."""

import pytest
import torch
from torch import nn

from redoubtable.attacks.known import Known
from redoubtable.evaluation import evaluate
from redoubtable.threat import Linf

X = torch.rand(6, 1, 2, 2, generator=torch.Generator().manual_seed(0)) * 0.6 + 0.2
MADE = X + 0.1
Y = torch.tensor([0, 1, 0, 1, 0, 1])
NET = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))


def test_each_image_is_known_by_its_clean_form_in_any_order() -> None:
    known = Known(X, MADE, "made")
    order = torch.tensor([4, 0, 5])
    assert torch.equal(known(NET, X[order], Y[order], Linf(0.1)), MADE[order])


def test_a_stranger_is_refused_with_their_number() -> None:
    known = Known(X[:4], MADE[:4], "made")
    with pytest.raises(ValueError, match="'made' knows nothing of 2 of 6 images"):
        known(NET, X, Y, Linf(0.1))


def test_shapes_must_agree() -> None:
    with pytest.raises(ValueError, match=r"`x_adv` must be \(6, 1, 2, 2\)"):
        Known(X, MADE[:5], "made")


def test_the_type_is_that_of_the_images_asked_for() -> None:
    assert Known(X, MADE.double(), "made")(NET, X, Y, Linf(0.1)).dtype == torch.float32


def test_evaluate_judges_them_and_asks_for_an_attack_that_sees_the_model() -> None:
    known = Known(X, MADE, "made elsewhere")
    done = evaluate(NET, X, Y, Linf(0.1001), [known, "fgsm"], check=False, curve=())
    wrong = (NET(MADE).argmax(1) != Y).double().mean().item()
    assert done.under["made elsewhere"] == pytest.approx(1 - wrong)
    with pytest.raises(ValueError, match="never see the model"):
        evaluate(NET, X, Y, Linf(0.1001), [known], check=False, curve=())


def test_evaluate_refuses_known_images_that_are_too_far() -> None:
    with pytest.raises(ValueError, match="illegal"):
        evaluate(NET, X, Y, Linf(0.05), [Known(X, MADE, "far"), "fgsm"], check=False, curve=())
