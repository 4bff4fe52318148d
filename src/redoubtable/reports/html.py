"""Records as one self-contained page: no request to anywhere, no script."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2

from redoubtable.files import write_bytes
from redoubtable.reports import plots, record
from redoubtable.reports.certificates import certified_rows, guarantee
from redoubtable.reports.classes import SHOWN, confusion, worst_answers
from redoubtable.reports.effort import efforts, tries
from redoubtable.reports.record import Record
from redoubtable.reports.sheets import Arrays, sheet
from redoubtable.reports.verdict import sentences

_FILTERS = {
    "area": record.area,
    "interval": record.interval,
    "number": record.number,
    "percent": record.percent,
    "with_interval": record.with_interval,
    "check_name": record.check_name,
    "conditions": record.conditions,
    "facts_in_words": record.facts_in_words,
    "full_name": record.full_name,
    "has_static": record.has_static,
    "in_words": record.in_words,
    "rules": record.rules,
    "by_verdict": record.by_verdict,
    "certified_rows": certified_rows,
    "guarantee": guarantee,
    "evidence": record.evidence,
}


def write_page(
    path: Path | str,
    records: Record | Sequence[Record],
    images: Sequence[Arrays],
    *,
    title: str,
    command: str,
    timings: Mapping[str, float] | None = None,
    arrays: Sequence[Arrays] | None = None,
    certificates: Sequence[Record] = (),
) -> Path:
    """Write records as one HTML file, whole or not at all.

    The same arguments give the same file.

    Args:
        path: the file, or an existing folder for `index.html`.
        records: one record, a demo's record or several.
        images: per evaluation `Evaluation.images`, or an empty mapping.
        title: the page's heading.
        command: what to type for the same result.
        timings: seconds by "<model> under <threat>"; other keys are shown too.
        arrays: per evaluation `Evaluation.arrays`; with them images show labels and answers.
        certificates: records of certificates that belong beside the evaluations.

    Returns:
        The file.

    Raises:
        ValueError: images or arrays are not as many as evaluations, or the file can't be written.
    """
    found = record.evaluations(records)
    for name, given in (("images", images), ("arrays", arrays)):
        if given is not None and len(given) != len(found):
            raise ValueError(
                f"`{name}` must have one mapping for each of {len(found)} evaluations, got "
                f"{len(given)}; give {{}} where there are none"
            )
    known = {record.full_name(r) for r in found}
    numbered = list(zip(found, images, arrays or [{}] * len(found), strict=True))
    by_name = {record.full_name(r): a for r, _, a in numbered}
    file = Path(path)
    file = file / "index.html" if file.is_dir() else file
    page = (
        _environment()
        .get_template("page.html.jinja")
        .render(
            title=title,
            command=command,
            measured=(said := sentences(found))[0],
            believed=said[1],
            evaluations=found,
            certificates=certificates,
            groups=[_group(t, g, by_name) for t, g in record.by_threat(found).items()],
            confusions=[(record.full_name(r), c) for r, _, a in numbered if (c := confusion(r, a))],
            checks=_checks_near(file),
            sheets=[s for r, i, a in numbered if (s := sheet(record.full_name(r), r, i, a))],
            answered=arrays is not None,
            environments=_environments(found),
            timings=timings or {},
            others={k: v for k, v in (timings or {}).items() if k not in known},
            random=any(r["model"]["facts"]["stochastic"] for r in found),
            abstains=any(r["model"]["facts"]["abstains"] for r in found),
            views=record.VIEWS,
        )
    )
    write_bytes(file, page.encode())
    return file


def _environment() -> jinja2.Environment:
    """Templates from this package; every value is escaped, a missing one is an error."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("redoubtable.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(_FILTERS)
    environment.globals.update(
        under_rule=record.under_rule,
        failing=record.failing,
        colour=plots.colour,
        shown_classes=SHOWN,
        batches=record.BATCHES,
        accuracy=record.accuracy,
    )
    return environment


def _group(threat: str, group: Sequence[Record], arrays: Mapping[str, Arrays]) -> Mapping[str, Any]:
    """What the page shows of the models under one threat."""
    more = [(f"{r['name']}, {e.what}", e.left) for r in group for e in efforts(r)]
    asked = [(r["name"], t) for r in group if (t := _tries(r, arrays[record.full_name(r)]))]
    return {
        "efforts": [
            {"what": what, "series": series, "plot": plots.against(series, axis)}
            for what, series, axis in (
                ("effort", more, "times the effort of the evaluation"),
                ("tries", asked, "answers asked for, all of which must be good"),
            )
            if series
        ],
        "threat": threat,
        "records": group,
        "curve": plots.curve(group),
        "columns": _curve_columns(group),
        "radii": sorted({p["eps"] for r in group for p in r.get("curve") or []}),
        "roc": plots.roc(group),
        "guards": [r for r in group if r.get("detection") or r.get("rates")],
    }


def _tries(r: Record, arrays: Arrays) -> Mapping[int, Any]:
    """Accuracy against the number of answers of a random model."""
    answers = worst_answers(arrays) if r["model"]["facts"]["stochastic"] else None
    return {} if answers is None else tries(answers, arrays["y"], r["model"]["classes"])


def _checks_near(file: Path) -> str | None:
    """Where the pages on checks are, as seen from a page within a checkout; else None."""
    for parent in file.resolve().parents:
        if (parent / "docs" / "checks" / "more_steps.md").is_file():
            return os.path.relpath(parent / "docs" / "checks", file.resolve().parent)
    return None


def _curve_columns(group: Sequence[Record]) -> list[tuple[str, str, Mapping[float, Any]]]:
    """(model, view, share by eps) of every line of the picture of accuracy against eps."""
    columns: list[tuple[str, str, Mapping[float, Any]]] = []
    for r in group:
        views = ["static", "adaptive"] if record.has_static(r) else ["adaptive"]
        points = r.get("curve") or []
        columns += [(r["name"], v, {p["eps"]: p[v] for p in points}) for v in views if points]
    return columns


def _environments(found: Sequence[Record]) -> list[tuple[list[str], Mapping[str, Any]]]:
    """Each environment with the evaluations that were measured in it; nearly always one."""
    seen: list[tuple[list[str], Mapping[str, Any]]] = []
    for r in found:
        same = [names for names, e in seen if e == r["environment"]]
        if same:
            same[0].append(record.full_name(r))
        else:
            seen.append(([record.full_name(r)], r["environment"]))
    return seen
