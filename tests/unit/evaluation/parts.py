"""What the tests of the evaluator share."""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from torch import Tensor, nn

from redoubtable.attacks import pgd
from redoubtable.defenses import Subsample, Vote
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.evaluation import Evaluation, evaluate
from redoubtable.parts import facts_of
from redoubtable.threat import ThreatModel
from redoubtable.types import Images, Labels
from tests.networks import small_net

Register = Callable[..., Any]


def quick(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    attacks: Any = "pgd:steps=3",
    **arguments: Any,
) -> Evaluation:
    """An evaluation of the attacks alone."""
    return evaluate(model, x, y, threat, attacks, **{"curve": (), "check": False} | arguments)


def hidden(seed: int = 0) -> nn.Module:
    return nn.Sequential(Subsample(rate=0.3), small_net(seed=seed))


def guard(threshold: float = 0.9) -> nn.Module:
    return Rejecting(small_net(), Entropy(), threshold)


def shares(good: list[list[bool]]) -> list[float]:
    return [sum(row) / len(row) for row in good]


def chosen_by_hand(tables: list[list[list[bool]]]) -> list[int]:
    """The candidate with the fewest survived selection draws; half a draw's weight of its mean."""
    means = [sum(shares(t)) / len(t) for t in tables]
    worst = []
    for i in range(len(tables[0])):
        scores = [sum(t[i]) + 0.5 * mean for t, mean in zip(tables, means, strict=True)]
        worst.append(scores.index(min(scores)))
    return worst


def models() -> dict[str, nn.Module]:
    return {
        "deterministic": small_net(),
        "random": hidden(),
        "vote": Vote(hidden(), draws=3),
        "abstaining": guard(),
        "random and abstaining": Rejecting(Vote(hidden(), draws=2), Entropy(), 1.1),
    }


def count(register: Register, stop_at: int | None = None) -> list[tuple[Any, ...]]:
    """Register an attack that notes each call and is interrupted at one of them."""
    calls: list[tuple[Any, ...]] = []

    @register("counted")
    def counted(
        model: nn.Module,
        x: Images,
        y: Labels,
        threat: ThreatModel,
        *,
        targets: Any = None,
        steps: int = 2,
    ) -> Images:
        """Note the call and do as PGD does."""
        if stop_at is not None and len(calls) == stop_at:
            calls.append(("killed",))
            raise KeyboardInterrupt
        calls.append((steps, threat.key, len(x), x.sum().item(), facts_of(model).stochastic))
        return pgd(model, x, y, threat, steps=steps)

    return calls


def verdicts(e: Evaluation) -> dict[str, str]:
    return {f["check"]: f["verdict"] for f in e.record["findings"]}


def assert_equal(a: Evaluation, b: Evaluation) -> None:
    assert a.record == b.record
    assert json.dumps(a.record) == json.dumps(b.record)
    for one, other in ((a.arrays, b.arrays), (a.images, b.images)):
        assert list(one) == list(other)
        assert all(np.array_equal(one[k], other[k]) for k in one)
