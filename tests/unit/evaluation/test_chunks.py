"""The chunk length changes rounding and random starts, and next to no verdict.

A verdict is that of the worst attack. Of PGD under both of its losses all 200 agreed; under the
margin alone, whose random starts nothing else makes up for, 99.0%, and after only six steps 98.5%.
"""

from pathlib import Path

import numpy as np
import pytest

from redoubtable.data import load
from redoubtable.evaluation import Evaluation, Settings
from redoubtable.models import load_model
from redoubtable.threat import Linf
from tests.unit.evaluation.parts import quick

ZOO = Path(__file__).parents[3] / "zoo" / "digits-cnn"
IMAGES = 200


@pytest.fixture(scope="module")
def by_length() -> dict[int, Evaluation]:
    model = load_model(ZOO)
    x, y = load("digits", "test", limit=IMAGES)
    return {
        length: quick(model, x, y, Linf(0.03), "pgd:steps=40", settings=Settings(chunk=length))
        for length in (1, 7, 256)
    }


def standing(e: Evaluation) -> np.ndarray:
    """Which images stand under the worst attack."""
    names = [n for n in e.arrays if n.startswith("adaptive/") and n.endswith("/report")]
    assert len(names) == 2
    return np.all([e.arrays[name][:, 0] == e.arrays["y"] for name in names], axis=0)


@pytest.mark.slow
def test_verdicts_of_chunks_of_1_7_and_256_agree(by_length: dict[int, Evaluation]) -> None:
    flags = {length: standing(e) for length, e in by_length.items()}
    assert 0.2 < flags[256].mean() < 0.8, "an accuracy at which verdicts could differ"
    for length in (1, 7):
        assert (flags[length] == flags[256]).mean() >= 0.995


@pytest.mark.slow
def test_the_length_is_in_the_record_and_names_the_random_starts(
    by_length: dict[int, Evaluation],
) -> None:
    for length, e in by_length.items():
        assert e.record["settings"]["chunk"] == length
    images = [next(v for k, v in e.images.items() if k != "clean") for e in by_length.values()]
    assert not np.array_equal(images[0], images[2])
    assert all(len(i) == len(images[0]) for i in images)
