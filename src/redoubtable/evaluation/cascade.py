"""Several attacks, each on all examples or only on what stands after those before it."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from redoubtable.evaluation.candidates import Bench, Candidate
from redoubtable.evaluation.outcomes import Bar
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
    bar = Bar.of(before.selection, y, classes)
    for bound in attacks:
        before = carry(bench.attacked(view, bound, threat, bar.good == 0, bar), before)
        bar = bar.lowered(before.selection, y)
        found.append(before)
    return found


def carry(candidate: Candidate, before: Candidate) -> Candidate:
    """Return a candidate with what was found before of the examples that it did not see."""
    kept = candidate.carried
    names = ("selection", "report", "suspicion", "distance", "images")
    rows: dict[str, Any] = {
        n: _rows(kept, getattr(before, n), getattr(candidate, n)) for n in names
    }
    return replace(candidate, **rows)


def _rows(kept: NDArray[np.bool_], old: NDArray[Any], new: NDArray[Any]) -> NDArray[Any]:
    where = kept[: len(new)].reshape(-1, *(1,) * (new.ndim - 1))
    return np.where(where, old, new)
