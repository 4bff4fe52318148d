"""Classes, confusions and effort follow from the answers to each example."""

import itertools
from fractions import Fraction

import numpy as np
import pytest

from redoubtable.reports.classes import SHOWN, confusion, worst_answers
from redoubtable.reports.effort import efforts, tries
from redoubtable.statistics import share_of_draws, wilson
from tests.unit.reports_parts import answers, finding, record


def test_each_image_answers_under_its_own_worst_candidate() -> None:
    one = {f"alone/{k}": v + 1 for k, v in answers().items() if "/" in k}
    found = worst_answers({**one, **answers()})
    assert found is not None
    expected = [[1] * 4, [0, 1, 1, 0], [10, 10, 10, 1], [2] * 4, [2, 2, 0, 2], [2, 0, 0, 0]]
    assert found.tolist() == expected


def test_the_confusion_counts_commonest_answers_and_ties_against_the_defender() -> None:
    found = confusion(record(), answers())
    assert found is not None
    assert found.answers == (0, 1, 2, 10)
    assert found.counts.tolist() == [[0, 2, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0]]
    assert found.commonest == [(0, 1, 2), (1, 2, 1), (1, 10, 1), (2, 0, 1)]
    assert found.rejection == 10


def test_a_class_counts_the_share_of_its_draws_rejections_as_defended() -> None:
    found = confusion(record(), answers())
    assert found is not None
    shares = {c.label: (c.clean["value"], c.attacked["value"]) for c in found.classes}
    assert shares == {0: (1.0, 0.25), 1: (1.0, 0.5), 2: (0.625, 0.5)}
    one = share_of_draws([0, 2], [4, 4])
    assert one and found.classes[0].attacked == one.__dict__
    assert [c.label for c in found.worst_first] == [0, 2, 1]


def test_of_many_classes_the_extremes_are_told() -> None:
    y = np.arange(30)
    said = np.where(y < 17, y, 0)[:, None]
    many = record() | {"model": {"classes": 30}}
    arrays = {"y": y, "clean/report": y[:, None], "adaptive/a/report": said}
    found = confusion(many, arrays | {"robust/chosen": np.ones(30, int)})
    assert found is not None
    half = SHOWN // 2
    labels = [c.label for c in found.extremes]
    assert labels == [*range(17, 17 + half), *range(17 - half, 17)]
    assert len(found.commonest) == SHOWN


def test_without_answers_there_are_no_classes() -> None:
    assert confusion(record(), {}) is None
    assert worst_answers({"robust/chosen": np.zeros(2, int)}) is None


def test_tries_are_the_mean_over_every_choice_of_answers() -> None:
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 40)
    said = np.where(rng.random((40, 6)) < 0.7, y[:, None], rng.integers(0, 4, (40, 6)))
    found = tries(said, y, 3)
    assert list(found) == [1, 2, 3, 5, 6]
    good = (said == y[:, None]) | (said == 3)
    for k, left in found.items():
        choices = [good[:, list(c)].all(1).mean() for c in itertools.combinations(range(6), k)]
        assert left["value"] == pytest.approx(np.mean(choices))
        assert left["n"] == 40


def test_efforts_are_what_checks_measured_with_more_of_it() -> None:
    steps = finding(
        evidence={"steps_x1/20": 0.75, "steps_x1": 0.5, "steps_x3": 0.25, "p": 0.5, "n": 80}
    )
    draws = finding("fail", evidence={"eot_x1": 0.5, "eot_x3": 0.75, "n": 60})
    other = finding(evidence={"standing": 0.5, "box_x9": 0.5, "n": 60})
    found = efforts(record(findings=[steps, draws, other]))
    assert [(e.what, list(e.left)) for e in found] == [
        ("steps", [Fraction(1, 20), 1, 3]),
        ("draws per gradient", [1, 3]),
    ]
    assert found[0].left[Fraction(3)] == wilson(20, 80).__dict__
    assert found[1].left[Fraction(1)]["n"] == 60
