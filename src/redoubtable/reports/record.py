"""Records: reading them back, and the words and numbers that every report shares."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from redoubtable.evaluation.evaluate import SCHEMA
from redoubtable.files import read_json
from redoubtable.statistics import Proportion

Record = Mapping[str, Any]
"""What `evaluate` returns as `Evaluation.record`, or a demo's record around several; see
docs/record.md."""

VIEWS = ("clean", "static", "adaptive")
BATCHES = {"all": "all adversarial", "mixed": "half clean", "alone": "one image alone"}
"""Of models that depend on their batch: what it is made of."""
VERDICTS = ("fail", "pass", "not run")
KINDS = ("evaluation", "demo")
_FIELDS: Mapping[str, type] = {
    "name": str,
    "threat": str,
    "settings": dict,
    "model": dict,
    "data": dict,
    "clean": dict,
    "rows": list,
    "findings": list,
    "environment": dict,
}
_PROPORTION = {"value", "n", "low", "high"}
_AGAIN = "evaluate again, or restore the file"
_NORMS = {
    "Linf": "every value in [0, 1] changes by at most {}",
    "L2": "the Euclidean length of the change is at most {}",
    "L1": "the absolute changes add up to at most {}",
    "L0": "at most {} pixels change, by any amount",
    "L0values": "at most {} values change, each channel of a pixel by itself, by any amount",
}


def read_record(path: Path | str) -> Record:
    """Read a record and make sure that reports can be made of it.

    Args:
        path: the file, or the run folder with `record.json` in it.

    Raises:
        ValueError: there is no such file, it is damaged, or another version wrote it.
    """
    file = Path(path)
    file = file / "record.json" if file.is_dir() else file
    record = read_json(file, "record")
    _check_head(record, f"the record at {file}")
    for number, one in enumerate(evaluations(record)):
        inner = record.get("kind") == "demo"
        where = f"the record at {file}" + (f", evaluation {number}" if inner else "")
        _check_evaluation(one, where)
    return dict(record)


def _check_head(record: Any, where: str) -> None:
    """Refuse what no version, or another version, of this package wrote."""
    if not isinstance(record, dict) or "schema" not in record or "kind" not in record:
        raise ValueError(f"{where} is no redoubtable record; give a record.json or its folder")
    schema = record["schema"]
    if schema != SCHEMA:
        newer = isinstance(schema, int) and schema > SCHEMA
        fix = "upgrade redoubtable" if newer else "evaluate again with this version"
        raise ValueError(f"{where} has schema {schema!r}, this version reads {SCHEMA}; {fix}")
    if record["kind"] not in KINDS:
        kinds = " or ".join(map(repr, KINDS))
        raise ValueError(f"{where} is of kind {record['kind']!r}, not {kinds}; {_AGAIN}")
    if record["kind"] == "demo" and not isinstance(record.get("evaluations"), list):
        raise ValueError(f"{where} has no list 'evaluations'; {_AGAIN}")


def _check_evaluation(record: Any, where: str) -> None:
    _check_head(record, where)
    for name, kind in _FIELDS.items():
        if not isinstance(record.get(name), kind):
            raise ValueError(f"{where} has no {kind.__name__} {name!r}; {_AGAIN}")
    for name in ("static", "adaptive", "robust"):
        if name not in record:
            raise ValueError(f"{where} has no {name!r}; {_AGAIN}")
    for path, p in _proportions(record, ""):
        numbers = all(isinstance(v, int | float) for v in p.values())
        if not numbers or not 0 <= p["low"] <= p["value"] + 1e-9 <= p["high"] + 2e-9 <= 1 + 3e-9:
            raise ValueError(f"{where} has no share with its interval at {path}: {p}; {_AGAIN}")


def _proportions(value: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every share in a record, with its path."""
    if isinstance(value, dict):
        if set(value) == _PROPORTION:
            yield path, value
        for key, inner in value.items():
            yield from _proportions(inner, f"{path}.{key}".lstrip("."))
    elif isinstance(value, list):
        for number, inner in enumerate(value):
            yield from _proportions(inner, f"{path}[{number}]")


def evaluations(records: Record | Sequence[Record]) -> list[Record]:
    """Return the evaluations in one record, a demo's record or several records."""
    if isinstance(records, Mapping):
        return list(records["evaluations"]) if records["kind"] == "demo" else [records]
    return [e for record in records for e in evaluations(record)]


def by_threat(records: Record | Sequence[Record]) -> dict[str, list[Record]]:
    """Return the evaluations by threat, both in the order in which they came."""
    groups: dict[str, list[Record]] = {}
    for record in evaluations(records):
        groups.setdefault(record["threat"], []).append(record)
    return groups


# -- what a record says ------------------------------------------------------------------------


def full_name(record: Record) -> str:
    """Return what an evaluation is called among several, which is also the key of its timing."""
    return f"{record['name']} under {record['threat']}"


def accuracy(record: Record, view: str, rule: str = "one_shot") -> dict[str, Any] | None:
    """Return an accuracy of "clean", "static", "adaptive" or "robust"; none if not measured."""
    numbers = record[view]
    return dict(numbers["accuracy"][rule]) if numbers else None


def has_static(record: Record) -> bool:
    """Return whether static attacks ran on their own; without a defense they are the adaptive."""
    return bool(record["static"]) and "note" not in record["static"]


def failing(record: Record, number: str | None = None) -> list[Record]:
    """Return the findings that failed, all or those that qualify one number."""
    found = [f for f in record["findings"] if f["verdict"] == "fail"]
    return [f for f in found if number in (None, f["qualifies"])]


def by_verdict(record: Record) -> dict[str, list[Mapping[str, Any]]]:
    """Return the findings by verdict, those that failed first; no verdict without any."""
    groups = {v: [f for f in record["findings"] if f["verdict"] == v] for v in VERDICTS}
    return {verdict: found for verdict, found in groups.items() if found}


def strongest(record: Record, view: str) -> Record | None:
    """Return the row of the attack of a view that leaves the least; none if none ran."""
    rows = [r for r in record["rows"] if r["view"] == view]
    return min(rows, key=lambda r: r["accuracy"]["one_shot"]["value"], default=None)


def rules(record: Record) -> list[tuple[str, str, str]]:
    """Return the rules that an accuracy is told under: a label, a block and a key in it.

    Where a model is deterministic the three rules for random ones coincide, and one is told.
    """
    k = record["settings"]["draws"]
    random = bool(record["model"]["facts"]["stochastic"])
    table = [("one answer" if random else "accuracy", "accuracy", "one_shot")]
    if random:
        table += [
            (f"majority of {k}", "accuracy", "majority"),
            (f"worst of {k}", "accuracy", "worst"),
        ]
    if record["model"]["facts"]["abstains"]:
        table += [("strict", "strict", "one_shot"), ("rejected", "rejected", "")]
    return table


def under_rule(record: Record, view: str, block: str, key: str) -> dict[str, Any] | None:
    """Return one number of `rules` for one view; none if it was not measured."""
    numbers = record[view]
    if not numbers:
        return None
    found = numbers[block][key] if key else numbers[block]
    return dict(found)


# -- how it is written -------------------------------------------------------------------------


def percent(share: Mapping[str, Any]) -> str:
    """Write a share without its interval: `91.2%`."""
    return f"{100 * share['value']:.1f}%"


def with_interval(share: Mapping[str, Any]) -> str:
    """Write a share with its interval: `91.2% [88.4, 93.4]`."""
    return str(Proportion(**share))


def interval(share: Mapping[str, Any]) -> str:
    """Write the interval alone: `[88.4, 93.4]`."""
    return with_interval(share).partition(" ")[2]


def area(share: Mapping[str, Any]) -> str:
    """Write the area under an ROC curve with its interval: `0.889 [0.862, 0.916]`."""
    return f"{share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}]"


def number(value: float) -> str:
    """Write a count or a measure with at most four significant digits, thousands apart."""
    return f"{value:,.0f}" if abs(value) >= 1000 or value == int(value) else f"{value:.3g}"


def broken(text: str, width: int) -> list[str]:
    """Break an attack's text after commas into lines of at most `width`, where they allow it."""
    lines = [""]
    for part in text.replace(",", ",\n").split("\n"):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append("")
        lines[-1] += part
    return lines


def check_name(finding: Mapping[str, Any]) -> str:
    """Write the name of a check as words."""
    return str(finding["check"]).replace("_", " ")


def evidence(finding: Mapping[str, Any]) -> str:
    """Write the numbers of a finding: "p 0.125, n 100"."""
    said = []
    for key, value in finding["evidence"].items():
        values = value if isinstance(value, list | tuple) else [value]
        words = [number(v) if isinstance(v, float) else str(v) for v in values]
        said.append(f"{key} {' '.join(words)}")
    return ", ".join(said)


def in_words(threat: str) -> str:
    """Say what the attacker of a threat may do; "" for one that this version does not know."""
    norm, _, eps = threat.partition(":")
    return _NORMS[norm].format(eps) if norm in _NORMS else ""


def facts_in_words(record: Record) -> str:
    """Say what sort of model was measured: "random, abstains"."""
    facts = record["model"]["facts"]
    said = ["random" if facts["stochastic"] else "deterministic"]
    said += ["abstains"] * bool(facts["abstains"])
    said += ["batch-dependent"] * bool(facts["batch_dependent"])
    said += ["not differentiable"] * (not facts["differentiable"])
    return ", ".join(said)


def conditions(record: Record, timings: Mapping[str, float] | None = None) -> str:
    """Say what the numbers of a record were measured on: images, draws, seed and seconds."""
    n, s = record["data"]["n"], record["settings"]
    said = [f"{n} images", f"{s['draws']} draw{'s' * (s['draws'] != 1)}", f"seed {s['seed']}"]
    seconds = (timings or {}).get(full_name(record))
    said += [f"{seconds:.0f} s"] if seconds is not None else []
    return ", ".join(said)
