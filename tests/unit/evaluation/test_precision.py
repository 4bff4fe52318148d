"""Which precision an attack searches in."""

import pytest

from redoubtable.evaluation import Settings, candidates
from redoubtable.threat import L2
from tests.networks import blobs, small_net
from tests.unit.evaluation.parts import quick


@pytest.mark.parametrize(
    ("attack", "precisions"),
    [
        ("pgd:steps=1,step_size=0.1", ["bf16"]),
        ("zoo:steps=1,const=1", ["fp32"]),
        ("nes:queries=300", ["fp32"]),
        ("spsa:queries=300", ["fp32"]),
    ],
)
def test_differences_of_nearby_images_are_taken_in_full_precision(
    attack: str, precisions: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In bf16 a step of 1e-4 is none: ZOO would see no slope, and leave a network standing."""
    made, fast_copy = [], candidates.fast_copy

    def noted(model, x, precision):  # type: ignore[no-untyped-def]
        made.append(precision)
        return fast_copy(model, x, precision)

    monkeypatch.setattr(candidates, "fast_copy", noted)
    x = blobs(4)
    y = small_net()(x).argmax(1)
    settings = Settings(precision="bf16")
    quick(small_net(), x, y, L2(2.0), attack, settings=settings)
    assert set(made) == set(precisions)
