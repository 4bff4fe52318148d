"""Plots and sheets of images follow the record, byte for byte."""

import base64
import copy
import io

import numpy as np
import pytest

from redoubtable.reports import plots
from redoubtable.reports.sheets import sheet
from tests.unit.reports_parts import bare, numbers, pictures, record, share


def test_pictures_are_the_same_bytes_and_leave_matplotlib_alone() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    found = [bare(), record()]
    for draw in (plots.curve, plots.roc):
        first = draw(found)
        assert first is not None
        assert first.startswith("data:image/svg+xml;base64,")
        assert first == draw(copy.deepcopy(found))
    assert dict(mpl.rcParams) == before


def test_a_picture_follows_the_record() -> None:
    other = record()
    other["curve"][1]["adaptive"] = share(0.1, 100)
    assert plots.curve([other]) != plots.curve([record()])


def test_nothing_is_drawn_where_nothing_was_measured() -> None:
    without = bare()
    del without["curve"]
    assert plots.curve([without]) is None
    assert plots.curve([record(), without]) == plots.curve([record()])  # not in the legend either
    assert plots.roc([without]) is None


def test_a_name_with_a_dollar_is_no_mathematics() -> None:
    assert plots.curve([record("$x_{$"), record("_hidden")]) is not None


@pytest.mark.parametrize("channels", [1, 2, 3])
def test_an_image_keeps_its_values(channels: int) -> None:
    from matplotlib.image import imread

    image = np.zeros((channels, 2, 3), np.float32)
    image[:, 0, 2] = 1
    content = base64.b64decode(plots.picture(image).partition(",")[2])
    pixels = imread(io.BytesIO(content))[..., :3]
    assert pixels.shape == (2, 3, 3)
    assert pixels[0, 2].min() == 1
    assert pixels.sum() == 3


def test_changes_are_amplified_by_a_round_factor_that_keeps_them_in_range() -> None:
    changes = [np.full((1, 2, 2), 0.19, np.float32), np.full((1, 2, 2), -0.2, np.float32)]
    assert plots.amplification(changes) == 5
    assert plots.amplification([np.full((1, 1), 8 / 255)]) == 20
    assert plots.amplification([np.ones((1, 1))]) == plots.amplification([]) == 1


def test_a_change_is_grey_where_there_is_none_and_as_much_lighter_as_it_says() -> None:
    from matplotlib.image import imread

    clean = np.full((1, 1, 2), 0.5, np.float32)
    image = clean + np.array([[[0, 0.1]]], np.float32)
    content = base64.b64decode(plots.difference(image, clean, 5).partition(",")[2])
    assert imread(io.BytesIO(content))[0, :, 0] == pytest.approx([0.5, 0.75], abs=1 / 255)


def test_a_sheet_shows_the_strongest_attack_with_labels_and_answers() -> None:
    arrays = {
        "y": np.array([7, 5, 1]),
        "adaptive/pgd:loss=margin,steps=20/report": np.array([[2, 2], [10, 5], [1, 1]]),
    }
    two = record()
    weaker = two["rows"][1] | numbers(0.5, 10, True) | {"attack": "square"}
    two["rows"].append(weaker)
    images = pictures()
    images["adaptive/square"] = images["clean"]
    found = sheet("guard", two, images, arrays)
    assert found is not None
    assert found.heads == ("label 7", "label 5", "label 1")
    assert [r.heading for r in found.rows] == ["clean", "static", "change", "adaptive", "change"]
    adaptive = found.rows[3]
    assert adaptive.note == "pgd:loss=margin,steps=20"
    assert [(p.says, p.wrong) for p in adaptive.pictures] == [
        ("2", True),
        ("5 (1\N{NO-BREAK SPACE}of\N{NO-BREAK SPACE}2)", False),
        ("1", False),
    ]
    assert found.factor == 5


def test_a_rejection_is_named_and_no_error() -> None:
    key = "adaptive/pgd:loss=margin,steps=20/report"
    arrays = {"y": np.array([7, 5, 1]), key: np.full((3, 4), 10)}
    found = sheet("guard", record(), pictures(), arrays)
    assert found is not None
    assert {(p.says, p.wrong) for p in found.rows[3].pictures} == {("rejected", False)}
