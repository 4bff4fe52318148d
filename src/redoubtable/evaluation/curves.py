"""Accuracy against eps."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any, Literal

import torch

from redoubtable.evaluation import checks, summary
from redoubtable.evaluation.candidates import Bench, Candidate
from redoubtable.evaluation.cascade import attack_all
from redoubtable.evaluation.plan import VIEWS, Plans
from redoubtable.evaluation.turns import all_of
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
    balls = radii(threat, factors)

    def found(view: Literal["static", "adaptive"]) -> list[list[Candidate]]:
        """By radius; a cascade goes on from what the radius before has left."""
        attacks = getattr(plans, view)
        # Too few draws are looked at here to know what of a random model has fallen.
        if not plans.cascade or few.facts.stochastic:
            return all_of(partial(attack_all, few, view, attacks, b, classes) for b in balls)
        rows, before = [], clean
        for ball in balls:
            rows.append(attack_all(few, view, attacks, ball, classes, before))
            before = [before, *rows[-1]][-1]
        return rows

    by_view = all_of(partial(found, view) for view in VIEWS)
    points = [summary.point(0.0, [clean], [clean], y, classes)]
    for number, ball in enumerate(balls):
        static, adaptive = ([clean, *chain(*rows[: number + 1])] for rows in by_view)
        shown = static if plans.static else adaptive
        points.append(summary.point(float(ball.eps), shown, adaptive, y, classes))
    return points


def radii(threat: ThreatModel, factors: Sequence[float]) -> list[ThreatModel]:
    """Return the threats of a curve, ascending; counts of pixels are rounded."""
    if isinstance(threat.eps, torch.Tensor):
        return []
    whole = threat.whole
    radii = sorted({round(threat.eps * f) if whole else threat.eps * f for f in factors})
    return [replace(threat, eps=float(r)) for r in radii if r > 0]
