"""An abstaining model at thresholds of fixed false positive rates."""

from typing import Any

import torch

from redoubtable.detectors import Rejecting, by_false_positives
from redoubtable.evaluation import checks, summary
from redoubtable.evaluation.candidates import Bench
from redoubtable.evaluation.cascade import attack_all
from redoubtable.evaluation.chunks import batches
from redoubtable.evaluation.plan import Plans
from redoubtable.seeding import seeded
from redoubtable.threat import ThreatModel
from redoubtable.types import LazyImages, check_lazy

RATES = (0.01, 0.05)
"""False positive rates at which an abstaining model is attacked again."""


def held_out_scores(bench: Bench, held_out: LazyImages | None) -> torch.Tensor | None:
    """Return (N,) scores of held-out images, read batch by batch; none where none are needed.

    Before any attack: images that can't be used are refused at once and not after hours.
    """
    if held_out is None or not isinstance(bench.model, Rejecting):
        return None
    check_lazy(held_out, "held_out")
    size = max(1, bench.settings.batch_size // bench.facts.passes)
    if bench.facts.batch_dependent:
        size = min(bench.settings.chunk, len(bench.data))
        if len(held_out) % size:
            raise ValueError(
                f"the model depends on its batch, and {len(held_out)} held-out images don't fill "
                f"batches of {size}; give {len(held_out) // size * size}"
            )
    scores = []
    with seeded("held out", bench.settings.seed):
        for _, images in batches(held_out, size, "held_out"):
            scores.append(bench.model.scores(images.to(bench.device), size))
    return torch.cat(scores)


def part(bench: Bench, images: int | None) -> Bench:
    """Return a bench of the first images, or of all."""
    if images is None:
        return bench
    few = checks.part_of(bench, images).data
    return Bench(bench.model, few, bench.settings, bench.journal, bench.tick)


def at_rates(
    bench: Bench,
    plans: Plans,
    threat: ThreatModel,
    scores: torch.Tensor | None,
    classes: int,
    images: int | None = None,
) -> list[dict[str, Any]]:
    """Return the guard's numbers at fixed false positive rates, attacked anew at each.

    Args:
        bench: the guard at its own threshold, and all examples.
        plans: the attacks.
        threat: what they may change.
        scores: of held-out images, which set the thresholds; None for no numbers.
        classes: K; the answer K is a rejection.
        images: on how many of the first images; None for all.
    """
    if scores is None or not isinstance(bench.model, Rejecting):
        return []
    guard, points = bench.model, []
    bench = part(bench, images)
    for rate in RATES:
        threshold = by_false_positives(scores, rate)
        again = Bench(guard.at(threshold), bench.data, bench.settings, bench.journal, bench.tick)
        clean = again.clean()
        start = clean if plans.cascade else None
        found = [clean, *attack_all(again, "adaptive", plans.adaptive, threat, classes, start)]
        points.append(
            {"rate": rate, "threshold": threshold.value, "held_out": threshold.n}
            | summary.summarise(found, bench.data.y.numpy(), classes, True, plans.cascade)
        )
    return points
