"""Runs on the same examples, compared pair by pair."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from itertools import combinations
from typing import Any

import numpy as np

from redoubtable.evaluation.paired import Number, compare_pair, good_answers
from redoubtable.reports.markdown import code, table, text
from redoubtable.reports.record import accuracy, with_interval
from redoubtable.reports.runs import Run

SCHEMA = 1
NUMBERS: tuple[Number, ...] = ("clean", "adaptive", "robust")
_SAME = ("name", "n", "shape", "digest")


def compare(runs: Sequence[Run]) -> dict[str, Any]:
    """Return how each two of several runs differ on the examples that they share.

    Of each pair the clean, the adaptive and the robust number. The p-value of deterministic models
    is that of McNemar's exact test; of random ones that of the sign-flip test on each example's
    share of good draws.

    Args:
        runs: two or more.

    Returns:
        What `redoubt compare --json` prints; docs/reports.md says what is in it.

    Raises:
        ValueError: there are fewer than two, or they are not of the same examples and threat.
    """
    if len(runs) < 2:
        raise ValueError(f"a comparison needs two runs or more, got {len(runs)}")
    for other in runs[1:]:
        _check_same(runs[0], other)
    names = _names(runs)
    differences = [
        {"first": first, "second": second, "number": number, **_difference(a, b, number)}
        for (first, a), (second, b) in combinations(zip(names, runs, strict=True), 2)
        for number in NUMBERS
    ]
    return {
        "schema": SCHEMA,
        "kind": "comparison",
        "threat": runs[0].record["threat"],
        "data": dict(runs[0].record["data"]),
        "runs": [_about(run, name) for run, name in zip(runs, names, strict=True)],
        "differences": differences,
        "notes": _notes(runs),
    }


def _check_same(a: Run, b: Run) -> None:
    """Refuse runs that differ in more than the model and its attacks."""
    where = f"{a.folder} and {b.folder}"
    for word in _SAME:
        one, other = (run.record["data"].get(word) for run in (a, b))
        if one != other or one is None:
            raise ValueError(
                f"{where} are not of the same examples ({word}: {one} and {other}); evaluate both "
                "on the same data with the same --limit"
            )
    if a.record["threat"] != b.record["threat"]:
        threats = f"{a.record['threat']} and {b.record['threat']}"
        raise ValueError(f"{where} have other threats ({threats}); evaluate both under one")
    for key in ("y", "eps"):
        if not np.array_equal(a.arrays[key], b.arrays[key]):
            raise ValueError(f"{where} have other values of {key!r} in examples.npz")


def _difference(a: Run, b: Run, number: Number) -> dict[str, Any]:
    """The paired difference of one number, and the examples behind it."""
    found = asdict(compare_pair((a.record, a.arrays), (b.record, b.arrays), number))
    # A majority of the draws, so that an example has one outcome.
    sides = [good_answers(r.arrays, r.record["model"]["classes"], number) for r in (a, b)]
    one, other = (2 * counts > draws for counts, draws in sides)
    tally = {
        "both": one & other,
        "only_first": one & ~other,
        "only_second": ~one & other,
        "neither": ~one & ~other,
    }
    return found | {name: int(which.sum()) for name, which in tally.items()}


def _names(runs: Sequence[Run]) -> list[str]:
    """What to call each run: its model, with its folder where two would be called the same."""
    names = [str(run.record["name"]) for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({run.folder})"
        for name, run in zip(names, runs, strict=True)
    ]


def _about(run: Run, name: str) -> dict[str, Any]:
    r = run.record
    return {
        "name": name,
        "folder": str(run.folder),
        "digest": r["model"]["digest"],
        "attacks": r["attacks"],
        "seed": r["settings"]["seed"],
        "draws": r["settings"]["draws"],
        **{number: accuracy(r, number) for number in NUMBERS},
    }


def _notes(runs: Sequence[Run]) -> list[str]:
    """What a reader must know before believing a difference."""
    notes = []
    if len({tuple(r.record["attacks"]) for r in runs}) > 1:
        notes.append("The runs were attacked by different attacks, so the attacks differ too.")
    if len({r.record["settings"]["precision"] for r in runs}) > 1:
        notes.append("The runs were searched in different precision.")
    for run in runs:
        failed = [f["check"] for f in run.record["findings"] if f["verdict"] == "fail"]
        if failed or not run.record["findings"]:
            which = f"checks failed: {', '.join(failed)}" if failed else "no check ran"
            notes.append(f"In {run.folder} {which}; its robust number may be an overstatement.")
    pairs = len(runs) * (len(runs) - 1) // 2
    if pairs > 1:
        notes.append(f"No p-value is corrected for the {pairs} pairs that are compared.")
    return notes


def comparison_markdown(found: Mapping[str, Any]) -> str:
    """Return a comparison as GitHub's Markdown: the runs, the differences, the examples."""
    data = found["data"]
    said = f"{data['n']} images of {text(data.get('name', 'unnamed data'))}, {found['threat']}."
    runs = [
        [text(r["name"]), *(with_interval(r[n]) for n in NUMBERS), str(r["draws"]), str(r["seed"])]
        for r in found["runs"]
    ]
    differences, examples = [], []
    for d in found["differences"]:
        pair = f"{text(d['first'])} - {text(d['second'])}, {d['number']}"
        low, high = 100 * d["low"], 100 * d["high"]
        size = f"{100 * d['value']:+.1f} [{low:+.1f}, {high:+.1f}]"
        differences.append([pair, size, f"{d['p']:.3g}"])
        examples.append(
            [pair, *(str(d[k]) for k in ("both", "only_first", "only_second", "neither"))]
        )
    parts = [
        "# Comparison",
        said,
        table(["run", *NUMBERS, "draws", "seed"], runs),
        "Differences in percentage points with 95% intervals, paired by image; p of McNemar's "
        "exact test, for random models of its generalisation, the sign-flip test:",
        table(["first - second", "difference", "p"], differences),
        "Images on which most answers are good:",
        table(["first - second", "both", "only the first", "only the second", "neither"], examples),
        *(f"Note: {text(note)}" for note in found["notes"]),
        *(f"{text(r['name'])}: {code(', '.join(r['attacks']))}" for r in found["runs"]),
    ]
    return "\n\n".join(parts) + "\n"
