"""What the numbers of records mean, in two sentences; derived from the numbers alone."""

from collections.abc import Mapping, Sequence
from typing import Any

from redoubtable.reports.record import (
    Record,
    accuracy,
    check_name,
    evaluations,
    failing,
    has_static,
    percent,
    with_interval,
)

_FALLS = 0.5
"""A model falls when attacks leave less than this share of its clean accuracy."""


def verdict(records: Record | Sequence[Record]) -> str:
    """Return two sentences: what was measured, and what may be believed of it.

    Robustness is never claimed: surviving the attacks that were tried is an upper bound. Not even
    that is said where a check failed, where none ran, or where no attack knew the defense.

    Args:
        records: one record, a demo's record or several.

    Raises:
        ValueError: there is no evaluation.
    """
    return " ".join(sentences(records))


def sentences(records: Record | Sequence[Record]) -> tuple[str, str]:
    """Return the two sentences of a verdict apart: what was measured, what may be believed."""
    found = evaluations(records)
    if not found:
        raise ValueError("a verdict needs at least one evaluation; the record has none")
    names = dict.fromkeys(r["name"] for r in found)
    models = [[r for r in found if r["name"] == name] for name in names]
    measured = [_measured(model, first=model is models[0]) for model in models]
    meaning = _meanings(found)
    return f"{'; '.join(measured)}.", f"{meaning[0].upper()}{meaning[1:]}."


def listed(words: Sequence[str]) -> str:
    """Join words as one says them: "a", "a and b", "a, b and c"."""
    return " and ".join(filter(None, [", ".join(words[:-1]), words[-1]]))


# -- the first sentence: what was measured -----------------------------------------------------


def _measured(records: Sequence[Record], first: bool) -> str:
    """One clause with the numbers of one model under each of its threats."""
    clean = listed(list(dict.fromkeys(percent(_value(r, "clean")) for r in records)))
    clean += " of clean images right" if first else " of clean images"
    return f"{records[0]['name']} ({clean}) {', and '.join(map(_one_threat, records))}"


def _value(record: Record, view: str) -> Mapping[str, Any]:
    """A number that is known to be there."""
    found = accuracy(record, view)
    if found is None:
        raise ValueError(f"the record of {record['name']} has no {view!r} numbers; evaluate again")
    return found


def _one_threat(record: Record) -> str:
    """What static and adaptive attacks leave of a model."""
    threat, static = record["threat"], accuracy(record, "static")
    if accuracy(record, "adaptive") is None:
        seen = f"looks like {percent(static)} under static attacks" if static else "was unattacked"
        return f"{seen} at {threat}, where no adaptive attack ran"
    adaptive = _value(record, "adaptive")
    left = with_interval(adaptive)
    if static is None or not has_static(record):
        return f"{'falls to' if _falls(record) else 'keeps'} {left} under attack at {threat}"
    looks = percent(static)
    if adaptive["high"] < static["low"]:
        return f"looks like {looks} under static attacks at {threat} but adaptive ones leave {left}"
    knowing = f"keeps {left} under adaptive attacks at {threat},"
    if adaptive["low"] > static["high"]:
        return f"{knowing} more than the {looks} of static ones, which knew less"
    return f"{knowing} not clearly less than the {looks} of static ones"


# -- the second sentence: what may be believed -------------------------------------------------


def _falls(record: Record, views: Sequence[str] = ("static", "adaptive", "robust")) -> bool:
    """Whether the worst of these leaves too little, whatever the others say."""
    left = [a["value"] for v in views if (a := accuracy(record, v)) is not None]
    return bool(left) and min(left) < _FALLS * _value(record, "clean")["value"]


def _meanings(records: Sequence[Record]) -> str:
    """One clause per conclusion, each with all the evaluations that it is true of."""
    groups: dict[str, list[Record]] = {}
    for record in records:
        groups.setdefault(_meaning(record), []).append(record)
    clauses = [text.replace("{}", _who(group, records)) for text, group in groups.items()]
    lower = [r for r in records if _falls(record=r) and failing(r)]
    if lower:
        checks = dict.fromkeys(f'"{check_name(f)}"' for r in lower for f in failing(r))
        who = _who(lower, records)
        clauses.append(f"for {who} the check {listed(list(checks))} failed, so less may be left")
    return "; ".join(clauses)


def _meaning(record: Record) -> str:
    """What may be believed of one evaluation; `{}` stands for its name."""
    if _falls(record):
        if not has_static(record):
            return "under attack {} cannot be relied on"
        if _falls(record, ["static"]):
            return "the defense of {} falls even to attackers who do not know it"
        return "the defense of {} falls once the attacker knows it"
    if accuracy(record, "adaptive") is None:
        return "nothing is known of {} against an attacker who adapts, so claim no robustness"
    if failing(record):
        checks = listed([f'"{check_name(f)}"' for f in failing(record)])
        return f"the number of {{}} must not be read as robustness: the check {checks} failed"
    if not any(f["verdict"] == "pass" for f in record["findings"]):
        return "the number of {} must not be read as robustness: no check of it ran"
    return (
        "what {} keeps passed every check that ran, yet it is only an upper bound: better attacks "
        "may leave less"
    )


def _who(group: Sequence[Record], everything: Sequence[Record]) -> str:
    """The evaluations of a clause; threats are named for a model that also has other results."""
    said = []
    for name in dict.fromkeys(r["name"] for r in group):
        threats = [r["threat"] for r in group if r["name"] == name]
        whole = len(threats) == sum(r["name"] == name for r in everything)
        said.append(name if whole else f"{name} at {listed(threats)}")
    return listed(said)
