"""Accuracy against eps."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from redoubtable.evaluation import checks, summary
from redoubtable.evaluation.candidates import Bench, Candidate
from redoubtable.evaluation.cascade import attack_all
from redoubtable.evaluation.plan import VIEWS, Plans
from redoubtable.threat import ThreatModel

CURVE = (0.25, 0.5, 1.0, 1.5, 2.0)
"""Multiples of eps at which accuracy against eps is measured."""
CURVE_IMAGES = 100


def curve(
    bench: Bench, plans: Plans, threat: ThreatModel, factors: Sequence[float], classes: int
) -> list[dict[str, Any]]:
    """Return accuracy against eps on the first images, worst attack per example.

    What is legal at a small eps is so at a larger one, so an example's worst candidate is sought
    among those of all smaller eps too; what rise is left is the noise of a random model's draws.
    """
    few = checks.part_of(bench, CURVE_IMAGES)
    clean, y = few.clean(), few.data.y.numpy()
    points = [summary.point(0.0, [clean], [clean], y, classes)]
    seen: dict[str, list[Candidate]] = {"static": [clean], "adaptive": [clean]}
    for ball in radii(threat, factors):
        for view in VIEWS:
            before = seen[view][-1] if plans.cascade else None
            seen[view] += attack_all(few, view, getattr(plans, view), ball, classes, before)
        static = seen["static"] if plans.static else seen["adaptive"]
        points.append(summary.point(float(ball.eps), static, seen["adaptive"], y, classes))
    return points


def radii(threat: ThreatModel, factors: Sequence[float]) -> list[ThreatModel]:
    """Return the threats of a curve, ascending; counts of pixels are rounded."""
    if isinstance(threat.eps, torch.Tensor):
        return []
    whole = threat.name == "L0"
    radii = sorted({round(threat.eps * f) if whole else threat.eps * f for f in factors})
    return [replace(threat, eps=float(r)) for r in radii if r > 0]
