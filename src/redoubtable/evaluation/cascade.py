"""Several attacks, each on all examples or only on what stands after those before it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from redoubtable.evaluation.candidates import Bench, Candidate
from redoubtable.evaluation.outcomes import Bar, defended
from redoubtable.evaluation.plan import BoundAttack
from redoubtable.evaluation.turns import all_of
from redoubtable.threat import ThreatModel


def attack_all(
    bench: Bench,
    view: Literal["static", "adaptive"],
    attacks: Sequence[BoundAttack],
    threat: ThreatModel,
    classes: int,
    before: Candidate | None = None,
) -> list[Candidate]:
    """Run attacks one after the other and return what each found.

    Args:
        bench: model, data, settings.
        view: what the attacks see.
        attacks: in their order.
        threat: what they may change.
        classes: K; the answer K is a rejection.
        before: for a cascade, what stands of the examples at its start; what has fallen is carried
            along. None lets every attack see all examples. On a random model an example has fallen
            when it stands in none of its draws. A batch-dependent model has no cascade, as a part
            of a batch is another batch.
    """
    if before is None or bench.facts.batch_dependent:
        return all_of(partial(bench.attacked, view, bound, threat) for bound in attacks)
    found: list[Candidate] = []
    y = bench.data.y.numpy()
    bar: Bar | None = None
    fallen = np.asarray(~defended(before.selection, y, classes).any(1))
    for bound in attacks:
        before = carry(bench.attacked(view, bound, threat, fallen, bar), before)
        # The first one has nothing but clean images before it, and nobody shows those instead.
        new = Bar.of(before.selection, y, classes)
        bar = new if bar is None else bar.lowered(new)
        fallen = np.asarray(bar.good == 0)
        found.append(before)
    return found


def carry(candidate: Candidate, before: Candidate) -> Candidate:
    """Return a candidate with what was found before where it found nothing more."""
    carried, beaten = candidate.carried, candidate.beaten
    none = ("selection", "report", "suspicion"), carried | beaten
    unseen = ("distance", "images"), carried
    rows: dict[str, Any] = {
        n: _rows(where, getattr(before, n), getattr(candidate, n))
        for names, where in (none, unseen)
        for n in names
    }
    return replace(candidate, **rows)


def _rows(kept: NDArray[np.bool_], old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    where = kept[: len(new)].reshape(-1, *(1,) * (new.ndim - 1))
    return np.where(where, old, new)
