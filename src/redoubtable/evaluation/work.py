"""The pieces that an evaluation is made of, each of which several processes can share."""

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import chain
from typing import Any

from torch import Tensor

from redoubtable.evaluation import batch_settings, checks, curves, rates
from redoubtable.evaluation.candidates import Bench, Candidate
from redoubtable.evaluation.cascade import attack_all
from redoubtable.evaluation.plan import VIEWS, Plans
from redoubtable.evaluation.turns import all_of
from redoubtable.threat import ThreatModel


@dataclass(frozen=True)
class Measured:
    """What was measured, in the order of the jobs.

    Attributes:
        candidates: the clean images and what each attack made of them.
        batched: a model that depends on its batch in all settings, else None.
        points: accuracy against eps.
        rates: the guard's numbers at fixed false positive rates.
        findings: what doubts the result.
    """

    candidates: list[Candidate]
    batched: batch_settings.Batches | None
    points: list[dict[str, Any]]
    rates: list[dict[str, Any]]
    findings: list[dict[str, Any]]


@dataclass
class Work:
    """What is to be measured.

    Attributes:
        bench: the model, its data and the journal.
        plans: the attacks.
        threat: what they may change.
        classes: K; the answer K is a rejection.
        curve: multiples of eps; none for no curve.
        checks: names of those that doubt the result.
        scores: of held-out images, which set the thresholds of fixed rates; None for no rates.
        rate_images: on how many of the first images these are measured; None for all.
    """

    bench: Bench
    plans: Plans
    threat: ThreatModel
    classes: int
    curve: Sequence[float]
    checks: Collection[str]
    scores: Tensor | None
    rate_images: int | None

    def jobs(self) -> tuple[Callable[[], Any], ...]:
        """Return what gives the fields of `Measured`; others may have parts of it in hand."""
        return (
            lambda: self.candidates,
            lambda: self.batched,
            self.points,
            self.rates,
            self.findings,
        )

    @cached_property
    def candidates(self) -> list[Candidate]:
        """The clean images and what each attack made of them."""
        clean = self.bench.clean()
        rest = (self.threat, self.classes, clean if self.plans.cascade else None)
        views = all_of(
            partial(attack_all, self.bench, view, getattr(self.plans, view), *rest)
            for view in VIEWS
        )
        return [clean, *chain(*views)]

    @cached_property
    def batched(self) -> batch_settings.Batches | None:
        """A model that depends on its batch in all settings."""
        if not self.bench.facts.batch_dependent:
            return None
        return batch_settings.measure(
            self.bench, self.candidates, self.plans, self.threat, self.classes
        )

    def points(self) -> list[dict[str, Any]]:
        """Return accuracy against eps."""
        if not self.curve:
            return []
        return curves.curve(self.bench, self.plans, self.threat, self.curve, self.classes)

    def rates(self) -> list[dict[str, Any]]:
        """Return the guard's numbers at fixed false positive rates."""
        return rates.at_rates(
            self.bench, self.plans, self.threat, self.scores, self.classes, self.rate_images
        )

    def findings(self) -> list[dict[str, Any]]:
        """Return what doubts the result."""
        if not self.checks:
            return []
        case = checks.Case(self.bench, self.plans, self.candidates, self.threat, self.classes)
        if self.batched:
            others = {str(setting): found for setting, found in self.batched.candidates.items()}
            case = replace(case, neighbours=others)
        return checks.findings(case, self.checks)

    def expected(self) -> int:
        """Return how many chunks there will be: of checks that end early at most."""
        static, adaptive = len(self.plans.static), len(self.plans.adaptive)
        every = 1 + static + adaptive
        total = every * len(self.bench.data.starts)
        if self.bench.facts.batch_dependent:  # alone, and twice half a batch
            total *= 4
        if self.curve:
            radii = len(curves.radii(self.threat, self.curve))
            total += self._chunks(curves.CURVE_IMAGES) * (1 + radii * (static + adaptive))
        if self.scores is not None:
            total += len(rates.RATES) * self._chunks(self.rate_images) * (1 + adaptive)
        if self.checks:
            total += checks.expected(self.bench, self.plans, self.threat, self.checks)
        return total

    def _chunks(self, images: int | None) -> int:
        """How many chunks the first images are, or all."""
        n = len(self.bench.data) if images is None else checks.count_of(self.bench, images)
        return math.ceil(n / self.bench.data.length)
