"""How the contract tests run an attack, and what legal means to them."""

from collections.abc import Callable
from typing import Any

import pytest
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS
from redoubtable.registry import Entry, settable
from redoubtable.seeding import seeded
from redoubtable.threat import L0, L1, L2, L0Values, Linf, ThreatModel

ENTRIES = list(ATTACKS)
EPS = {Linf: 0.1, L2: 0.8, L1: 4.0, L0: 5.0, L0Values: 9.0}
CASES = [
    pytest.param(entry, kind(EPS[kind]), id=f"{entry.name}-{kind.name}")
    for entry in ENTRIES
    for kind in entry.facts["threats"]
]
REDUCED: dict[str, dict[str, Any]] = {
    "carlini_wagner": {"steps": 50, "const": 0.01, "search_steps": 6},  # rounds of 1,000 steps
    "corner_search": {"steps": 5, "draws": 100, "population": 20},
    "hop_skip_jump": {"queries": 1000},
    "nes": {"queries": 800, "draws": 20},
    "one_pixel": {"population": 40, "steps": 20},
    "spsa": {"queries": 800, "draws": 20},
    "sparse_rs": {"queries": 400},  # the schedules of both are scaled to it
    "square": {"queries": 600},
    "zoo": {"steps": 40, "draws": 30, "const": 0.01, "search_steps": 3},
}
"""Budgets for attacks whose published one of thousands of queries takes too long to test by."""
NEEDS: dict[str, Callable[[nn.Module], dict[str, Any]]] = {
    "jsma": lambda model: {"classes": 3},  # by default one random class, maybe out of reach
    "transfer": lambda model: {"surrogates": (model,)},  # it has no default
}
"""What attacks are given without which they might do nothing."""
every_attack = pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.name)
every_case = pytest.mark.parametrize(("entry", "threat"), CASES)


def run(
    entry: Entry[Any],
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    *,
    seed: int = 0,
    **arguments: Any,
) -> Tensor:
    """Run an attack under a fixed random state, cheaply where it says how."""
    takes = settable(entry.obj)
    cheap = {"steps": 4, "queries": 30, "restarts": 2, "population": 20, "draws": 20}
    cheap |= {"search_steps": 2}
    needed = NEEDS[entry.name](model) if entry.name in NEEDS else {}
    given = {k: v for k, v in cheap.items() if k in takes} | needed | arguments
    with seeded("contract", seed):
        return entry.obj(model, x, y, threat, **given)


def takes(entry: Entry[Any], pair: str) -> bool:
    return pair.split("=")[0] in settable(entry.obj)
