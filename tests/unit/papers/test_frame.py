"""Published numbers stand beside the measured ones that they belong to."""

from collections.abc import Sequence

import pytest

from redoubtable.papers.frame import Experiment, Published, Row, Scale, beside, family, scaled
from redoubtable.registry import read_arguments
from redoubtable.statistics import wilson
from redoubtable.training import Settings as Training

FOUND = wilson(80, 100)
PUBLISHED = [
    Published("resnet20, r = 0.9", 0.752, "cifar10", "Table 1"),
    Published("resnet110, original", 0.939, "cifar10", "Table 1"),
    Published("curve", 0.5, "gtsrb", "Figure 5", at=0.5),
]


def row(series: str, view: str = "clean", at: float | None = None) -> Row:
    return Row(series, "accuracy", view, FOUND, at)  # type: ignore[arg-type]


def test_a_copy_of_a_data_set_is_of_its_family() -> None:
    assert family("cifar10-jpeg") == "cifar10"
    assert family("gtsrb") == "gtsrb"


def test_a_measured_row_gets_its_published_number_and_where_it_is() -> None:
    first, *rest = beside([row("resnet20, r = 0.9")], PUBLISHED, "cifar10-jpeg")
    assert first.published == 0.752
    assert "Table 1" in first.note
    assert first.found == FOUND
    assert [r.series for r in rest] == ["resnet110, original"]


def test_what_was_not_measured_is_said_and_not_left_out() -> None:
    (missing,) = beside([row("resnet20, r = 0.9")], PUBLISHED, "cifar10")[1:]
    assert missing.found is None
    assert missing.published == 0.939
    assert "not measured" in missing.note


def test_numbers_of_other_data_sets_are_left_out() -> None:
    assert beside([row("something")], PUBLISHED, "digits") == [row("something")]


def test_a_published_number_belongs_to_one_place_on_the_axis() -> None:
    here, there = beside([row("curve", at=0.5), row("curve", at=0.9)], PUBLISHED, "gtsrb")
    assert (here.published, there.published) == (0.5, None)


def test_a_published_clean_number_does_not_stand_beside_an_attacked_one() -> None:
    attacked, missing, _ = beside([row("resnet20, r = 0.9", view="adaptive")], PUBLISHED, "cifar10")
    assert attacked.published is None
    assert missing.published == 0.752


def test_an_experiment_of_one_data_set_runs_on_it_and_on_a_strangers() -> None:
    one = Experiment("x", "X", lambda lab: [], data=("cifar10",))
    assert one.on("cifar10-jpeg")
    assert not one.on("gtsrb")
    assert one.on("mine.npz")
    assert Experiment("x", "X", lambda lab: []).on("gtsrb")


SCALES = {"cpu": Scale(("digits",), ("small_cnn",), Training(1), 10, None, None, 2)}


def test_a_scale_is_named_and_may_be_changed() -> None:
    assert scaled(SCALES, "cpu") is not None
    changed = scaled(SCALES, "cpu:images=7,clean=30")
    assert (changed.images, changed.clean, changed.draws) == (7, 30, 2)
    assert SCALES["cpu"].images == 10
    assert scaled(SCALES, "cpu").training_on("gtsrb").epochs == 1
    longer = scaled(SCALES, "cpu:epochs=40").training_on("gtsrb")
    assert (longer.epochs, longer.augment) == (40, "crop")


def test_a_list_of_numbers_that_is_none_is_refused_in_words() -> None:
    with pytest.raises(ValueError, match="must be numbers with a semicolon between them, got 'a'"):
        read_arguments("rates=a", {"rates": Sequence[float]}, "scale", "cpu")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("gpu", "`scale` must be one of cpu, got 'gpu'"),
        ("cpu:imges=3", "scale 'cpu' has no argument 'imges'; did you mean images"),
        ("cpu:images=many", "cpu:images must be a whole number, got 'many'"),
        ("cpu:images=0", "`images` of a scale must be at least 1, got 0"),
        ("cpu:epochs=0", "`epochs` of a scale must be at least 1, got 0"),
        ("cpu:training=3", "scale 'cpu' has no argument 'training'"),
    ],
)
def test_a_scale_that_is_none_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        scaled(SCALES, text)
