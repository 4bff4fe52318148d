"""What every check gets to see, and what it gives."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from redoubtable.evaluation.candidates import Bench, Candidate, Settings
from redoubtable.evaluation.checks.stages import LEVEL
from redoubtable.evaluation.chunks import Chunks
from redoubtable.evaluation.outcomes import defended, pick, worst_candidate
from redoubtable.evaluation.plan import BoundAttack, Plans
from redoubtable.evaluation.summary import worst
from redoubtable.registry import settable
from redoubtable.statistics import mcnemar
from redoubtable.threat import ThreatModel

CHECKED_IMAGES = 100
"""How many of the first images the checks that attack again look at."""
FEW = 0.02
"""A share of images small enough to be called none: one or two of a hundred."""

Stands = NDArray[np.bool_]
"""(N,) which images' right answers or rejections are the rule: more than half of the draws."""


@dataclass(frozen=True)
class Finding:
    """What a check found.

    Attributes:
        check: its name; docs/checks/NAME.md says more.
        verdict: "pass", "fail", or "not run".
        says: one sentence for a reader, with the numbers.
        qualifies: the number that it qualifies: "clean", "static" or "adaptive".
        evidence: the numbers; `passes` are the network passes that the check itself took.
    """

    check: str
    verdict: Literal["pass", "fail", "not run"]
    says: str
    qualifies: Literal["clean", "static", "adaptive"]
    evidence: dict[str, Any]

    def as_dict(self) -> dict[str, Any]:
        """Return it as a record keeps it."""
        return asdict(self)


def verdict(good: bool) -> Literal["pass", "fail"]:
    """Return the word for a check that ran."""
    return "pass" if good else "fail"


def count_of(bench: Bench, images: int = CHECKED_IMAGES) -> int:
    """Return how many images a bench of the first ones has."""
    if bench.facts.batch_dependent:  # a part of a batch is another batch
        images = math.ceil(images / bench.data.length) * bench.data.length
    return min(images, len(bench.data))


def part_of(bench: Bench, images: int = CHECKED_IMAGES) -> Bench:
    """Return a bench of the first images."""
    few: Settings = replace(bench.settings, draws=min(bench.settings.draws, 10))
    data = Chunks(*bench.data.first(count_of(bench, images)), bench.data.length)
    return Bench(bench.model, data, few, bench.journal, bench.tick)


def strongest(attacks: Sequence[BoundAttack]) -> list[BoundAttack]:
    """Return the attacks that take steps, or all where none does."""
    return [b for b in attacks if "steps" in settable(b.entry.obj)] or list(attacks)


def follows_gradients(bound: BoundAttack) -> bool:
    """Whether an attack asks for gradients."""
    return bool(bound.entry.facts["access"] == "gradient")


def too_many(count: int, n: int) -> bool:
    """Whether more than a few of n images: more than 2%, and more than two."""
    return count > max(2, FEW * n)


@dataclass(frozen=True)
class Case:
    """An evaluation that is doubted.

    Attributes:
        bench: the model and all of its examples.
        plans: the attacks that ran.
        candidates: what they found, the clean images first.
        threat: what the attacker may change.
        classes: K; the answer K is a rejection.
        neighbours: of a model that depends on its batch, what they found by other settings: an
            image alone, or beside clean ones.
        memory: what one check measured and another one reads.
    """

    bench: Bench
    plans: Plans
    candidates: Sequence[Candidate]
    threat: ThreatModel
    classes: int
    neighbours: Mapping[str, Sequence[Candidate]] = field(default_factory=dict)
    memory: dict[str, Any] = field(default_factory=dict)

    @cached_property
    def few(self) -> Bench:
        """The first images."""
        return part_of(self.bench)

    @cached_property
    def effort(self) -> list[BoundAttack]:
        """The adaptive attacks that all examples went through.

        Of a cascade the later ones have not seen all: the first that takes steps stands for them.
        """
        whole = self.plans.adaptive
        return strongest(whole)[:1] if self.plans.cascade else whole

    @cached_property
    def leader(self) -> BoundAttack | None:
        """The gradient attack that takes steps and leaves the least, or None.

        A targeted one, in which each image has an objective of its own, only where all are.
        """
        steps = [b for b in strongest(self.effort) if follows_gradients(b)]
        steps = [b for b in steps if "steps" in settable(b.entry.obj)]
        able = [b for b in steps if "targets" not in b.arguments] or steps
        left = [self.shares([self.of(b)]).mean() for b in able]
        return able[int(np.argmin(left))] if able else None

    def of(self, bound: BoundAttack, view: str = "adaptive") -> Candidate:
        """Return what an attack of the plan found."""
        return next(c for c in self.candidates if c.view == view and c.attack == bound.text)

    def seen(self, view: str, access: Sequence[str] = ()) -> list[Candidate]:
        """Return what the attacks of a view found, of all or of those with an access."""
        attacks = getattr(self.plans, view)
        return [
            self.of(b, view) for b in attacks if not access or b.entry.facts["access"] in access
        ]

    def shares(
        self, candidates: Sequence[Candidate], bench: Bench | None = None
    ) -> NDArray[np.float64]:
        """Return (N,) the share of draws that stand of each image's worst candidate.

        Args:
            candidates: of all examples, or of those of `bench`.
            bench: looks at its first examples and draws only.
        """
        bench = bench or self.bench
        part = (slice(len(bench.data)), slice(bench.draws))
        first = [replace(c, selection=c.selection[part], report=c.report[part]) for c in candidates]
        y = bench.data.y.numpy()
        flags = worst(first, lambda answers: defended(answers, y, self.classes))[1]
        return np.asarray(flags.mean(1))

    def tally(self, candidates: Sequence[Candidate], rows: slice, draws: int) -> NDArray[np.int64]:
        """Return (M,) how many of 2 * draws answers stand of each image's worst candidate.

        Each half of the draws is judged by the candidate that is the worst on the other half, so
        that all of them count and none of them chooses for itself.

        Args:
            candidates: whose answers are compared.
            rows: the images that all candidates have seen.
            draws: how many of the selection and of the report are looked at.
        """
        y, part = self.bench.data.y.numpy()[rows], (rows, slice(draws))
        halves = [
            [defended(answers[part], y, self.classes) for answers in (c.selection, c.report)]
            for c in candidates
        ]
        counts = np.zeros(len(y), dtype=np.int64)
        for chooses, counted in ((0, 1), (1, 0)):
            chosen = worst_candidate([half[chooses] for half in halves])
            counts += np.asarray(pick([half[counted] for half in halves], chosen)).sum(1)
        return counts

    def standing(self, candidates: Sequence[Candidate], bench: Bench | None = None) -> Stands:
        """Return (N,) which images stand under each one's worst candidate."""
        return np.asarray(self.shares(candidates, bench) > 0.5)

    def retried(
        self, bounds: Sequence[BoundAttack], threat: ThreatModel, stands: Stands
    ) -> tuple[Stands, int]:
        """Attack those of the first images that stand; return which still do, and the passes.

        On a random model an image that stood in more than half of the draws has fallen when it
        stands in less than a quarter of new ones: half of them may be chance.

        Args:
            bounds: attacks on the whole model; what one brings down the next leaves out.
            threat: what they may change.
            stands: (M,) of the first images.
        """
        passes, left = 0, stands.copy()
        least = 0.25 if self.bench.facts.stochastic else 0.5
        for bound in bounds:
            if not left.any():
                break
            # A part of a batch is another batch.
            spared = None if self.bench.facts.batch_dependent else ~left
            found = self.few.attacked("adaptive", bound, threat, spared)
            left &= self.shares([found], self.few) >= least
            passes += found.passes.forward + found.passes.backward
        return left, passes

    def beats(self, theirs: Stands, ours: Stands) -> tuple[bool, int]:
        """Whether images fall to others that stand under us, beyond what chance explains.

        On a model without randomness each such image counts, and there may be a few. On a random
        one draws decide too, so that more fall to them is also asked of McNemar's exact test.

        Args:
            theirs: (N,) which images stand under the other attacks.
            ours: (N,) which stand under the attacks that ought to be stronger.

        Returns:
            The answer, and how many images fall to the others alone.
        """
        only = int((ours & ~theirs).sum())
        if not self.bench.facts.stochastic:
            return too_many(only, len(ours)), only
        more = only - int((theirs & ~ours).sum())
        p = mcnemar(ours, theirs, "greater")
        return too_many(more, len(ours)) and p < LEVEL, only


def passes_of(candidates: Sequence[Candidate]) -> int:
    """Return the network passes, forward and backward, that attacks took."""
    return sum(c.passes.forward + c.passes.backward for c in candidates)
