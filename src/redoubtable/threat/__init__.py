"""What the attacker may change: norm balls, and how they are written."""

import math

from redoubtable.registry import read_number
from redoubtable.threat.base import ThreatModel as ThreatModel
from redoubtable.threat.l0 import L0 as L0
from redoubtable.threat.l0_values import L0Values as L0Values
from redoubtable.threat.l1 import L1 as L1
from redoubtable.threat.l2 import L2 as L2
from redoubtable.threat.linf import Linf as Linf

THREATS: dict[str, type[ThreatModel]] = {t.name: t for t in (Linf, L2, L1, L0, L0Values)}


def parse_threat(text: str) -> ThreatModel:
    """Read a threat as written on the command line: `Linf:8/255`, `L2:0.5`, `L0:30`, `L1:inf`.

    L0 counts pixels, L0values their channels one by one.

    Raises:
        ValueError: the norm is unknown, or the radius is missing or no number.
    """
    name, colon, raw = text.strip().partition(":")
    known = {k.lower(): v for k, v in THREATS.items()}
    if name.lower() not in known:
        raise ValueError(
            f"unknown threat {name!r} in {text!r}; write one of {', '.join(THREATS)}:eps"
        )
    eps = math.inf if raw.strip().lower() == "inf" else read_number(raw)
    if not colon or eps is None:
        raise ValueError(f"no radius in the threat {text!r}; write it as in {name}:8/255")
    return known[name.lower()](eps)
