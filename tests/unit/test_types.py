"""Images and labels that are refused, each in one line that says what is wrong."""

from typing import Any

import numpy as np
import pytest
import torch

from redoubtable.types import check_images, check_labels


def changed(value: float) -> torch.Tensor:
    x = torch.rand(3, 1, 2, 2)
    x[1, 0, 1, 1] = value
    return x


@pytest.mark.parametrize("x", [torch.rand(1, 3, 4, 4), torch.zeros(2, 1, 1, 1).double()])
def test_images_in_the_box_pass(x: torch.Tensor) -> None:
    check_images(x)


@pytest.mark.parametrize(
    ("x", "kind", "message"),
    [
        (changed(float("nan")), ValueError, "NaN or infinite values in 1 of 3"),
        (changed(float("inf")), ValueError, "NaN or infinite values in 1 of 3"),
        (changed(-1e-6), ValueError, r"must lie in \[0, 1\], got \[-1e-06"),
        (changed(255.0), ValueError, r"got \[.*, 255\]"),
        (torch.zeros(2, 3), ValueError, r"got shape \(2, 3\)"),
        (torch.zeros(3, 4, 4), ValueError, r"x\[None\]"),
        (torch.zeros(0, 3, 4, 4), ValueError, "non-empty"),
        (torch.zeros(1, 3, 4, 4, dtype=torch.uint8), TypeError, "divide 8-bit images by 255"),
        (np.zeros((1, 3, 4, 4)), TypeError, "ndarray"),
        (None, TypeError, "NoneType"),
    ],
)
def test_what_is_no_batch_of_images_is_refused(x: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        check_images(x, "held_out")
    assert str(caught.value).startswith("`held_out`")
    assert "\n" not in str(caught.value)


def test_labels_inside_the_classes_pass() -> None:
    check_labels(torch.tensor([0, 9]), 2, 10)
    check_labels(torch.tensor([0, 99]), 2)
    check_labels(torch.zeros(0, dtype=torch.int64), 0, 10)


@pytest.mark.parametrize(
    ("y", "kind", "message"),
    [
        (torch.tensor([0, 10]), ValueError, "label 10, but the model has 10 classes"),
        (torch.tensor([-1, 0]), ValueError, "must not be negative, got -1"),
        (torch.tensor([0, 1, 2]), ValueError, r"shape \(2,\).*got \(3,\)"),
        (torch.tensor([[0], [1]]), ValueError, "shape"),
        (torch.tensor([0.0, 1.0]), TypeError, "float32"),
        (torch.tensor([0, 1], dtype=torch.int32), TypeError, "int32"),
        ([0, 1], TypeError, "list"),
    ],
)
def test_other_labels_are_refused(y: Any, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message) as caught:
        check_labels(y, 2, 10)
    assert "\n" not in str(caught.value)
