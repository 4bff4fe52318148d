"""Images that were made before, shown to other models."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from redoubtable.attacks.known import Known
from redoubtable.defenses import Subsample
from redoubtable.evaluation import Settings, evaluate
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


def test_what_was_made_of_the_model_itself_is_an_attack_that_sees_it() -> None:
    own = Known(X, MADE, "made of it", "gradient")
    done = evaluate(NET, X, Y, Linf(0.1001), [own], check=False, curve=())
    assert done.under["made of it"] == (NET(MADE).argmax(1) == Y).double().mean().item()


def test_evaluate_refuses_known_images_that_are_too_far() -> None:
    with pytest.raises(ValueError, match="illegal"):
        evaluate(NET, X, Y, Linf(0.05), [Known(X, MADE, "far"), "fgsm"], check=False, curve=())


def test_what_is_known_is_judged_once_and_other_images_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    whole = Known.__call__

    def counted(self: Known, model: nn.Module, x: Tensor, y: Tensor, threat: Any) -> Tensor:
        asked.append(len(x))
        return whole(self, model, x, y, threat)

    monkeypatch.setattr(Known, "__call__", counted)

    def judged(made: Tensor) -> dict[str, Any]:
        asked.clear()
        attacks = [Known(X, made, "made"), "fgsm"]
        e = evaluate(NET, X, Y, Linf(0.1001), attacks, check=False, curve=(), out=tmp_path)
        return {name: value.tolist() for name, value in e.arrays.items()}

    first = judged(MADE)
    assert sum(asked) == len(X)
    assert judged(MADE) == first and not asked
    other = judged(X)
    assert sum(asked) == len(X) and other != first


class Signed:
    """An attack of the user's own with a digest, which asks the model."""

    digest = "signed"
    access = "gradient"

    def __init__(self) -> None:
        self.asked: list[nn.Module] = []

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, threat: Any) -> Tensor:
        self.asked.append(model)
        return x


def test_an_attack_that_asks_the_model_sees_another_one_in_each_view(tmp_path: Path) -> None:
    guard = nn.Sequential(Subsample(0.5), nn.Flatten(), nn.Linear(4, 2)).eval()
    own = Signed()
    evaluate(guard, X, Y, Linf(0.1), [own], check=False, curve=(), out=tmp_path)
    assert len(own.asked) == 2 and own.asked[0] is not own.asked[1]


def test_an_access_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="`access` must be gradient"):
        Known(X, MADE, "made", "none")


def test_what_is_known_is_judged_once_for_both_views(tmp_path: Path) -> None:
    linear = nn.Linear(4, 2, bias=False)
    with torch.no_grad():  # answers that masks move
        linear.weight.copy_(torch.tensor([[1.0, -1, 1, -1], [-1, 1, -1, 1]]))
    guard = nn.Sequential(Subsample(0.5), nn.Flatten(), linear).eval()
    attacks = [Known(X, MADE, "made"), Known(X, X, "itself"), "fgsm:loss=margin"]
    how: dict[str, Any] = {"settings": Settings(draws=20), "check": False, "curve": ()}
    e = evaluate(guard, X, Y, Linf(0.1001), attacks, out=tmp_path, **how)
    answers = {name: e.arrays[name] for name in e.arrays if name.endswith("/report")}
    assert np.array_equal(answers["static/made/report"], answers["adaptive/made/report"])
    assert not np.array_equal(answers["static/made/report"], answers["adaptive/itself/report"])
    # The clean images, both that are known, and those of each fgsm.
    assert len(list((tmp_path / "journal").glob("*.cell"))) == 1 + 2 + 2
