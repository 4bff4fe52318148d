"""A record that must not move silently: `python -m tests.golden.regenerate` makes it anew."""

import json
from typing import Any

from tests.golden.regenerate import GOLDEN, measure

# Another processor rounds otherwise, and rounding can tip an image: one or two of sixty.
ROUNDING = 2.1 / 60


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        if set(a) != set(b):
            return [f"{where}: {sorted(set(a) ^ set(b))}"]
        return [d for k in a for d in differences(a[k], b[k], f"{where}/{k}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [
            d
            for i, (p, q) in enumerate(zip(a, b, strict=True))
            for d in differences(p, q, f"{where}/{i}")
        ]
    if isinstance(a, float) and isinstance(b, int | float):
        near = abs(a - b) <= max(ROUNDING, 0.05 * abs(a))
        return [] if near else [f"{where}: {a} is {b}"]
    return [] if a == b else [f"{where}: {a!r} is {b!r}"]


# What follows from single tipped images, or words that carry the numbers.
LOOSE = {"roc", "says", "worst_by", "p", "passes", "passes_per_image"}


def without(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: without(v) for k, v in value.items() if k not in LOOSE}
    return [without(v) for v in value] if isinstance(value, list) else value


def test_the_record_has_not_moved() -> None:
    kept = json.loads(GOLDEN.read_text())
    assert differences(without(kept), without(json.loads(json.dumps(measure())))) == []
