"""Two evaluations image by image, and several over seeds."""

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import pytest
from torch import Tensor, nn

from redoubtable.evaluation import Evaluation, Settings
from redoubtable.evaluation.paired import compare_pair, good_answers, spread_of_seeds
from redoubtable.statistics import mcnemar
from redoubtable.threat import Linf
from tests.networks import small_net
from tests.unit.evaluation.parts import hidden, models, quick

ATTACKS = ["fgsm", "pgd:steps=3"]


def run(e: Evaluation) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    return e.record, e.arrays


@pytest.mark.parametrize("name", list(models()))
def test_the_examples_file_is_enough_for_every_number_of_the_record(
    name: str, x: Tensor, y: Tensor
) -> None:
    """From answers alone the record's accuracies follow, all rules and views."""
    e = quick(models()[name], x, y, Linf(0.05), ATTACKS, settings=Settings(draws=5))
    for number in ("clean", "static", "adaptive", "robust"):
        for rule in ("one_shot", "majority", "worst"):
            counts, draws = good_answers(e.arrays, 4, cast(Any, number), cast(Any, rule))
            told = e.record[number]["accuracy"][rule]["value"]
            assert (counts / draws).mean() == pytest.approx(told), (number, rule)


def test_deterministic_models_are_compared_by_mcnemar(x: Tensor, y: Tensor) -> None:
    a, b = (quick(small_net(seed=s), x, y, Linf(0.02), ATTACKS) for s in (0, 1))
    for number in ("clean", "adaptive"):
        got = compare_pair(run(a), run(b), cast(Any, number))
        left, right = (good_answers(e.arrays, 4, cast(Any, number))[0] for e in (a, b))
        assert left.sum() != right.sum()
        assert got.p == pytest.approx(mcnemar(left, right))
        assert got.value == pytest.approx((left.sum() - right.sum()) / 30)
        assert compare_pair(run(b), run(a), cast(Any, number)).value == pytest.approx(-got.value)
    assert compare_pair(run(a), run(a)).p == 1.0


def test_models_of_other_numbers_of_draws_are_compared(x: Tensor, y: Tensor) -> None:
    a = quick(hidden(), x, y, Linf(0.02), "fgsm", settings=Settings(draws=4))
    b = quick(small_net(), x, y, Linf(0.02), "fgsm")
    for rule in ("one_shot", "worst"):
        got = compare_pair(run(a), run(b), "robust", cast(Any, rule))
        values = [e.record["robust"]["accuracy"][rule]["value"] for e in (a, b)]
        assert got.value == pytest.approx(values[0] - values[1])


def test_other_images_or_threats_are_not_paired(x: Tensor, y: Tensor) -> None:
    a = quick(small_net(), x, y, Linf(0.02), "fgsm")
    for other, message in (
        (quick(small_net(), x, y, Linf(0.03), "fgsm"), "threat"),
        (quick(small_net(), x[:20], y[:20], Linf(0.02), "fgsm"), "data"),
        (quick(small_net(), x, y.flip(0), Linf(0.02), "fgsm"), "data|labels"),
    ):
        with pytest.raises(ValueError, match=message):
            compare_pair(run(a), run(other))
        if message == "threat":
            assert compare_pair(run(a), run(other), "clean").p == 1.0
            continue
        with pytest.raises(ValueError, match=message):
            compare_pair(run(a), run(other), "clean")
    with pytest.raises(ValueError, match="no number"):
        compare_pair(run(a), run(a), cast(Any, "adaptiv"))


def test_the_spread_over_seeds_is_of_the_records_numbers(x: Tensor, y: Tensor) -> None:
    settings = Settings(draws=2)
    found = [
        quick(hidden(), x, y, Linf(0.05), "fgsm", settings=settings, seed=s).record
        for s in range(4)
    ]
    got = spread_of_seeds(found)
    values = [r["adaptive"]["accuracy"]["one_shot"]["value"] for r in found]
    assert len(set(values)) > 1
    assert (got.mean, got.sd) == pytest.approx((np.mean(values), np.std(values, ddof=1)))
    assert (got.least, got.most, got.n) == (min(values), max(values), 4)
    with pytest.raises(ValueError, match="same seed"):
        spread_of_seeds([*found, found[0]])
    with pytest.raises(ValueError, match="same attacks"):
        spread_of_seeds([found[0], quick(hidden(), x, y, Linf(0.05), "bim").record])


def test_what_was_not_attacked_has_no_spread(net: nn.Module, x: Tensor, y: Tensor) -> None:
    found = [quick(net, x, y, Linf(0.05), "fgsm", seed=s).record for s in (0, 1)]
    assert spread_of_seeds(found, "clean").sd == 0
    with pytest.raises(ValueError, match="adaptive"):
        spread_of_seeds([found[0], {**found[1], "adaptive": None}])
