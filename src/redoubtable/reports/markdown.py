"""Records as one Markdown page: what the HTML page says, without pictures."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from redoubtable.reports import record
from redoubtable.reports.certificates import certified_rows, guarantee
from redoubtable.reports.classes import SHOWN, Arrays, Confusion, confusion, worst_answers
from redoubtable.reports.effort import efforts, tries
from redoubtable.reports.record import Record, full_name, number, with_interval
from redoubtable.reports.verdict import sentences

_VERDICTS = {"fail": "Failed", "pass": "Passed", "not run": "Not run"}


def as_markdown(
    records: Record | Sequence[Record],
    *,
    title: str,
    command: str,
    timings: Mapping[str, float] | None = None,
    arrays: Sequence[Arrays] | None = None,
    certificates: Sequence[Record] = (),
) -> str:
    """Return records as GitHub's Markdown.

    Args:
        records: one record, a demo's record or several.
        title: the heading.
        command: what to type for the same result.
        timings: seconds by "<model> under <threat>"; other keys are shown too.
        arrays: per evaluation `Evaluation.arrays`; with them classes and answers are told apart.
        certificates: records of certificates that belong beside the evaluations.
    """
    found = record.evaluations(records)
    measured, believed = sentences(found)
    parts = [f"# {text(title)}", text(measured), f"**{text(believed)}**"]
    for threat, group in record.by_threat(found).items():
        words = record.in_words(threat)
        parts += [f"## {text(threat)}{words and f': {words}'}", _key(group, timings)]
        parts += _curve(group)
    for r, its in zip(found, arrays or [{}] * len(found), strict=True):
        parts += [f"## {text(full_name(r))}", "### Attack by attack", _attacks(r)]
        parts += _batches(r) + _rates(r) + _effort(r, its)
        if known := confusion(r, its):
            parts += ["### Class by class", *_classes(known)]
        parts += ["### Checks", *_checks(r)]
    for r in certificates:
        parts += [f"## Proved: {text(r['name'])}, {code(r['certificate'])}", _certified(r)]
        parts.append(text(guarantee(r)))
    parts += ["## Reproduce this", fenced(command), _settings(found, timings or {})]
    known_names = {full_name(r) for r in found}
    parts += [f"{text(k)}: {v:.0f} s" for k, v in (timings or {}).items() if k not in known_names]
    parts += [_environment(r) for r in found[:1]]
    parts.append(
        "Static attacks saw the bare network only, adaptive ones all of its defense; per image the "
        "worst attack counts. In brackets 95% intervals over the images. What stands is an upper "
        "bound: better attacks may leave less."
    )
    return "\n\n".join(parts) + "\n"


# -- writing Markdown --------------------------------------------------------------------------


def text(value: object) -> str:
    """Write a value so that nothing in it is markup or leaves its line."""
    return re.sub(r"([\\`*_\[\]<>|#~&])", r"\\\1", " ".join(str(value).split()))


def code(value: object) -> str:
    """Write a value as code within a line, also within a table."""
    inside = " ".join(str(value).split()).replace("`", "'").replace("|", r"\|")
    return f"`{inside}`" if inside else ""


def fenced(value: str) -> str:
    """Write lines of code, behind a fence that none of them closes."""
    longest = max((len(run) for run in re.findall("`+", value)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}\n{value}\n{fence}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Write a table: text in the first column, numbers to the right in the others."""
    rule = [":--", *["--:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [heads, rule, *rows])


# -- the parts of the page ---------------------------------------------------------------------


def _key(group: Sequence[Record], timings: Mapping[str, float] | None) -> str:
    """Clean, static and adaptive side by side; a block per model, a row per rule."""
    rows: list[list[str]] = []
    for r in group:
        about = f"{record.facts_in_words(r)}; {record.conditions(r, timings)}"
        rows.append([f"**{text(r['name'])}** ({text(about)})", "", "", ""])
        for label, block, key in record.rules(r):
            shares = [record.under_rule(r, view, block, key) for view in record.VIEWS]
            cells = [with_interval(s) if s else "not run" for s in shares]
            if shares[1] and not record.has_static(r):
                cells[1] = "as adaptive"
            doubts = [bool(record.failing(r, view)) for view in record.VIEWS]
            if block == "accuracy" and key == "one_shot":
                cells = [f"{c} (doubted)" if d else c for c, d in zip(cells, doubts, strict=True)]
            rows.append([label, *cells])
    return table(["", "clean", "static", "adaptive"], rows)


def _certified(r: Record) -> str:
    rows = [[radius, with_interval(share)] for radius, share in certified_rows(r)]
    return table([f"radius ({text(r['norm'])})", "right and certified"], rows)


def _curve(group: Sequence[Record]) -> list[str]:
    views = [
        (r, v)
        for r in group
        for v in (["static"] * record.has_static(r) + ["adaptive"])
        if r.get("curve")
    ]
    if not views:
        return []
    radii = sorted({p["eps"] for r, _ in views for p in r["curve"]})
    points = [{p["eps"]: with_interval(p[v]) for p in r["curve"]} for r, v in views]
    heads = ["eps", *(f"{text(r['name'])}, {v}" for r, v in views)]
    rows = [[number(eps), *(p.get(eps, "") for p in points)] for eps in radii]
    return ["Accuracy against eps, on the first images only:", table(heads, rows)]


def _attacks(r: Record) -> str:
    heads = ["attack", "accuracy", "passes per image", "median change", "worst on"]
    rows = []
    for row in r["rows"]:
        by = r[row["view"]]["worst_by"].get(f"{row['view']} {row['attack']}", "")
        share = with_interval(row["accuracy"]["one_shot"])
        passes, change = number(row["passes_per_image"]), number(row["distance"]["median"])
        rows.append([f"{row['view']} {code(row['attack'])}", share, passes, change, str(by)])
    return table(heads, rows)


def _batches(r: Record) -> list[str]:
    """What is left of a model that depends on its batch, by what the batch is made of."""
    if "batches" not in r:
        return []
    rows = []
    for setting, words in record.BATCHES.items():
        found = [record.accuracy(r["batches"][setting], view) for view in record.VIEWS]
        rows.append([words, *(with_interval(s) if s else "not run" for s in found)])
    said = f"The model depends on its batch, of {r['batches']['size']} images:"
    return [said, table(["the batch", "clean", "static", "adaptive"], rows)]


def _rates(r: Record) -> list[str]:
    """The guard at its own threshold and at those of fixed false positive rates."""
    if not r.get("rates"):
        return []
    rows = []
    for point in [r, *r["rates"]]:
        one, adaptive = point["clean"], point["adaptive"]
        cells = [with_interval(one["accuracy"]["one_shot"]), with_interval(one["rejected"])]
        for block in ("accuracy", "strict"):
            cells.append(with_interval(adaptive[block]["one_shot"]) if adaptive else "not run")
        rows.append([f"{point['rate']:.0%}" if "rate" in point else "its own", *cells])
    heads = ["false positives", "clean", "clean rejected", "adaptive", "strict"]
    return ["### Attacked anew at fixed false positive rates", table(heads, rows)]


def _effort(r: Record, arrays: Arrays) -> list[str]:
    rows = [
        [f"{times} x {text(e.what)}", with_interval(share), str(share["n"])]
        for e in efforts(r)
        for times, share in e.left.items()
    ]
    answers = worst_answers(arrays) if r["model"]["facts"]["stochastic"] else None
    if answers is not None:
        left = tries(answers, arrays["y"], r["model"]["classes"])
        rows += [
            [f"all of {k} answer{'s' * (k > 1)} good", with_interval(s), str(s["n"])]
            for k, s in left.items()
        ]
    heads = ["effort", "accuracy", "images"]
    return ["### Accuracy against effort", table(heads, rows)] if rows else []


def _classes(known: Confusion) -> list[str]:
    rows = [
        [str(c.label), str(c.attacked["n"]), with_interval(c.clean), with_interval(c.attacked)]
        for c in known.extremes
    ]
    which = "Classes" if len(known.classes) <= SHOWN else "The worst and the best classes"
    parts = [f"{which}, worst first:", table(["class", "images", "clean", "attacked"], rows)]
    if known.commonest:
        pairs = [
            [str(label), "rejected" if said == known.rejection else str(said), str(count)]
            for label, said, count in known.commonest
        ]
        parts += ["What attacked images are taken for:"]
        parts += [table(["true class", "taken for", "images"], pairs)]
    return parts


def _checks(r: Record) -> list[str]:
    """Every finding by verdict, with the name of the page that explains it."""
    if not r["findings"]:
        return ["**No check ran**: nothing speaks for these numbers."]
    parts = []
    for verdict, found in record.by_verdict(r).items():
        lines = [f"{_VERDICTS[verdict]}, {len(found)} of {len(r['findings'])}:\n"]
        for f in found:
            said = f"**{text(record.check_name(f))}** ({f['qualifies']}): {text(f['says'])}"
            page = f"docs/checks/{f['check']}.md"
            lines.append(f"- {said}. See {code(page)}.")
        parts.append("\n".join(lines))
    return parts


def _settings(found: Sequence[Record], timings: Mapping[str, Any]) -> str:
    heads = ["evaluation", "images", "draws", "seed", "chunk", "batch", "precision", "digest", "s"]
    rows = []
    for r in found:
        s = r["settings"]
        numbers = [str(s[k]) for k in ("draws", "seed", "chunk", "batch_size", "precision")]
        images = f"{r['data']['n']} {text(r['data'].get('name', ''))}".strip()
        seconds = timings.get(full_name(r))
        last = [code(r["model"]["digest"]), "" if seconds is None else f"{seconds:.0f}"]
        rows.append([text(full_name(r)), images, *numbers, *last])
    return table(heads, rows)


def _environment(r: Record) -> str:
    flat = {k: v for k, v in r["environment"].items() if k != "packages"}
    flat |= r["environment"].get("packages", {})
    return ", ".join(f"{text(k)} {text(v)}" for k, v in flat.items())
