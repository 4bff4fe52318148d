"""Records as tables in a terminal of 80 columns or more."""

from collections.abc import Mapping, Sequence

from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from redoubtable.reports.record import (
    VIEWS,
    Record,
    area,
    broken,
    by_threat,
    check_name,
    conditions,
    evaluations,
    facts_in_words,
    failing,
    full_name,
    has_static,
    in_words,
    number,
    percent,
    rules,
    under_rule,
    with_interval,
)
from redoubtable.reports.verdict import verdict

_OTHER_COLUMNS = 48
"""What the numbers of the attack table take at their widest; the rest is the attack's text."""


def show(
    records: Record | Sequence[Record],
    console: Console | None = None,
    *,
    timings: Mapping[str, float] | None = None,
) -> None:
    """Print records: per threat a table of models, their attacks and doubts, then the verdict.

    Args:
        records: one record, a demo's record or several.
        console: where to; standard output by default.
        timings: seconds by "<model> under <threat>"; other keys are listed at the end.
    """
    console = console or Console()
    for threat, group in by_threat(records).items():
        words = in_words(threat)
        _heading(console, f"Under {threat}", words and f": {words}")
        console.print(_key_table(group))
        for record in group:
            _indented(console, _about(record, timings))
        for record in group:
            _show_attacks(record, console)
        for record in group:
            _show_findings(record, console)
    _heading(console, "How to read this")
    for note in _notes(evaluations(records), timings or {}):
        _indented(console, Text(note, "dim"))
    _heading(console, "Verdict")
    _indented(console, Text(_plain(verdict(records))))


def _plain(text: str) -> str:
    """Replace what a terminal would obey instead of print."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _heading(console: Console, text: str, more: str = "") -> None:
    console.print()
    console.print(Text.assemble((_plain(text), "bold"), _plain(more)))


def _indented(console: Console, what: RenderableType) -> None:
    console.print(Padding(what, (0, 0, 0, 2), expand=False))


def _table(first: str, *columns: str) -> Table:
    """A table of text in the first column and numbers, which never wrap, in the others."""
    table = Table(
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
        header_style="dim",
    )
    table.add_column(first, overflow="fold", vertical="bottom")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, vertical="top")
    return table


# -- the key table -----------------------------------------------------------------------------


def _key_table(group: Sequence[Record]) -> Table:
    """Clean, static and adaptive side by side; a block per model, a row per rule."""
    table = _table("model", "clean", "static", "adaptive")
    for record in group:
        for line, (label, block, key) in enumerate(rules(record)):
            head = line == 0
            name = Text(_plain(record["name"]), "bold") if head else Text(label, "dim")
            table.add_row(name, *(_cell(record, view, block, key, head) for view in VIEWS))
    return table


def _cell(record: Record, view: str, block: str, key: str, head: bool) -> Text:
    """One number; a doubted one is marked, and what was not measured says so."""
    share = under_rule(record, view, block, key)
    if share is None:
        return Text("not run", "bold red" if view == "adaptive" and head else "dim")
    if view == "static" and not has_static(record):
        return Text("as adaptive", "dim")
    if head and failing(record, view):
        return Text(f"!{with_interval(share)}", "bold red")
    style = ("bold" if view == "adaptive" else "") if head else "dim"
    return Text(with_interval(share), style)


def _about(record: Record, timings: Mapping[str, float] | None) -> Text:
    """What sort of model it is and what its numbers were measured on."""
    said = f"{record['name']}: {facts_in_words(record)}; {conditions(record, timings)}"
    return Text(_plain(said), "dim")


# -- attacks and rates -------------------------------------------------------------------------


def _show_attacks(record: Record, console: Console) -> None:
    _heading(console, f"{full_name(record)}, attack by attack")
    console.print(_attack_table(record, console.width))
    if record.get("rates"):
        _heading(console, f"{full_name(record)}, attacked anew at fixed false positive rates")
        console.print(_rates_table(record))
    if record.get("detection"):
        text = f"ROC area {area(record['detection']['auc'])}; {record['detection']['note']}"
        _indented(console, Text(_plain(text), "dim"))


def _attack_table(record: Record, width: int) -> Table:
    abstains = record["model"]["facts"]["abstains"]
    columns = ["accuracy", *["rejected"] * abstains, "passes\n/image", "median\nchange"]
    table = _table("attack", *columns)
    view = ""
    for row in record["rows"]:
        if row["view"] != view:
            view = row["view"]
            table.add_row(Text(_plain(view), "bold"))
        lines = broken(_plain(row["attack"]), max(16, width - _OTHER_COLUMNS))
        cells = [with_interval(row["accuracy"]["one_shot"])]
        cells += [percent(row["rejected"])] if abstains else []
        cells += [number(row["passes_per_image"]), number(row["distance"]["median"])]
        table.add_row(Text("\n".join(lines)), *cells)
    return table


def _rates_table(record: Record) -> Table:
    """The guard's own threshold, then those of fixed rates, each attacked knowing it."""
    table = _table("rate", "clean", "rejected", "adaptive", "strict")
    for point in [record, *record["rates"]]:
        adaptive = point["adaptive"]
        table.add_row(
            f"{point['rate']:.0%}" if "rate" in point else "own",
            with_interval(point["clean"]["accuracy"]["one_shot"]),
            percent(point["clean"]["rejected"]),
            Text(with_interval(adaptive["accuracy"]["one_shot"]), "bold") if adaptive else "-",
            with_interval(adaptive["strict"]["one_shot"]) if adaptive else "-",
        )
    return table


# -- findings and notes ------------------------------------------------------------------------


def _show_findings(record: Record, console: Console) -> None:
    """Findings below the number they qualify: failures in full, the others in a line each."""
    _heading(console, f"{full_name(record)}, checked")
    if not record["findings"]:
        _indented(console, Text("no check ran: nothing speaks for these numbers", "bold red"))
    for view in VIEWS:
        found = [f for f in record["findings"] if f["qualifies"] == view]
        if not found:
            continue
        share = under_rule(record, view, "accuracy", "one_shot")
        number_said = with_interval(share) if share else "not run"
        _indented(console, Text.assemble(f"{view} ", (number_said, "bold")))
        for finding in sorted(found, key=lambda f: f["verdict"] != "fail"):
            failed = finding["verdict"] == "fail"
            mark, style = ("FAIL", "bold red") if failed else (finding["verdict"], "green")
            head = Text.assemble((_plain(mark), style), f" {_plain(check_name(finding))}: ")
            says = Text(_plain(finding["says"]), "" if failed else "dim")
            line = Padding(head + says, (0, 0, 0, 4), expand=False)
            console.print(line, no_wrap=not failed, overflow="fold" if failed else "ellipsis")


def _notes(found: Sequence[Record], timings: Mapping[str, float]) -> list[str]:
    """What a reader must know of the columns, as far as these records need it."""
    notes = [
        "static: attacks that saw the bare model. adaptive: attacks that knew the defense. Per "
        "image the worst attack counts. [low, high]: 95% interval over the images (Wilson).",
    ]
    if any(r["model"]["facts"]["stochastic"] for r in found):
        notes.append(
            "A random model's first line is the expected accuracy of one answer. majority: the "
            "commonest answer is right. worst of k: every draw is right."
        )
    if any(r["model"]["facts"]["abstains"] for r in found):
        notes.append(
            "A rejection counts as an error on clean images, as defended on attacked ones; "
            "strict counts right answers only, under the attacks that leave fewest of them."
        )
    if any(failing(r) for r in found):
        notes.append("!: a check that failed says not to trust this number.")
    rest = {k: v for k, v in timings.items() if k not in {full_name(r) for r in found}}
    notes += [f"{_plain(k)}: {v:.0f} s" for k, v in rest.items()]
    return notes
