"""A reproduction's record as tables in a terminal, as Markdown and as one page."""

import base64
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from redoubtable.files import make_folder, read_json, write_bytes
from redoubtable.reports import panels
from redoubtable.reports.markdown import code, table, text
from redoubtable.reports.record import Record, interval, with_interval

_VIEWS = ("clean", "static", "adaptive", "certified", "none")
_KNEW = {"static": "attacked knowing less", "adaptive": "attacked knowing all"}


def show_reproduction(record: Record, console: Console | None = None) -> None:
    """Print each experiment as a table: published beside measured, static beside adaptive.

    Args:
        record: of kind "reproduction".
        console: where to; standard output by default.
    """
    console = console or Console()
    console.print(f"[bold]{record['title']}[/]\n{record['url']}", highlight=False)
    for experiment in record["experiments"]:
        console.print()
        console.print(_table(experiment))
        if experiment["claim"]:
            console.print(f"The paper: {experiment['claim']}", highlight=False)
        console.print(f"[dim]{escape(experiment['command'] or '')}[/]", highlight=False)
    console.print()
    console.print(conditions(record), highlight=False)


def write_reproduction(folder: Path) -> Path:
    """Write `index.html`, `report.md` and its pictures beside the record of a reproduction.

    Returns:
        The page.

    Raises:
        ValueError: there is no record of a reproduction, or a file can't be written.
    """
    record = read_reproduction(folder)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("redoubtable.reports", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(interval=interval, percent=_percent, named=named)
    pictures = [_pictures(folder, e) for e in record["experiments"]]
    page = environment.get_template("reproduction.html.jinja").render(
        record=record,
        conditions=conditions(record),
        experiments=[
            {**e, "lines": pivot(e["rows"]), "columns": views(e["rows"]), "pictures": shown}
            for e, shown in zip(record["experiments"], pictures, strict=True)
        ],
    )
    write_bytes(folder / "index.html", page.encode())
    for shown in pictures:
        for one in shown:
            _, _, content = one["source"].partition("base64,")
            write_bytes(
                make_folder((folder / one["file"]).parent) / Path(one["file"]).name,
                base64.b64decode(content),
            )
    write_bytes(folder / "report.md", as_markdown(record, pictures).encode())
    return folder / "index.html"


def _pictures(folder: Path, experiment: Mapping[str, Any]) -> list[dict[str, str]]:
    """What is drawn of an experiment: in words, as a data URI, and the file for `report.md`."""
    found = []
    if experiment["axis"]:
        words = f"{experiment['title']}; the table below has the same numbers."
        file = f"{experiment['data']}/pictures/{experiment['name']}.svg"
        found.append({"words": words, "source": panels.lines(experiment), "file": file})
    for name in experiment["pictures"]:
        file = Path(name).with_suffix(".svg").as_posix()
        found.append({**panels.drawn(folder / name), "file": file})
    return found


def read_reproduction(folder: Path) -> Record:
    """Read the record of a reproduction.

    Raises:
        ValueError: there is none, or it is damaged or of another kind.
    """
    record = read_json(folder / "record.json", "record")
    if not isinstance(record, dict) or record.get("kind") != "reproduction":
        raise ValueError(f"{folder} holds no reproduction; give the --out of redoubt reproduce")
    return record


def as_markdown(
    record: Record, pictures: Sequence[Sequence[Mapping[str, str]]] | None = None
) -> str:
    """Return a reproduction's record as GitHub's Markdown.

    Args:
        record: of kind "reproduction".
        pictures: of each experiment, their words and files; None for none.
    """
    shown = pictures or [[] for _ in record["experiments"]]
    parts = [f"# {text(record['title'])}", f"<{record['url']}>", text(conditions(record))]
    for e, drawn in zip(record["experiments"], shown, strict=True):
        parts.append(f"## {text(e['name'])}, {text(e['data'])}: {text(e['title'])}")
        if e["claim"]:
            parts.append(f"The paper: {text(e['claim'])}")
        if e["command"]:
            parts.append(code(e["command"]))
        parts += [f"![{text(one['words'])}]({quote(one['file'])})" for one in drawn]
        head, rows = cells(e)
        parts.append(table([text(h) for h in head], [[text(r[0]), *r[1:]] for r in rows]))
    return "\n\n".join(parts) + "\n"


def conditions(record: Record) -> str:
    """Return what all numbers of a reproduction have in common, in words."""
    scale = record["scale"]
    trained = {e["data"]: e["training"] for e in record["experiments"] if "training" in e}
    training = "; ".join(
        f"{t['epochs']} epochs ({t['schedule']})" + (f" on {data}" if len(trained) > 1 else "")
        for data, t in (trained or {"": scale["training"]}).items()
    )
    devices = dict.fromkeys(e["environment"]["device"] for e in record["experiments"])
    return (
        f"Scale {scale['name']}: {training}, {scale['images']} attacked images, draws for the "
        f"choice of the worst attack: {scale['draws']}, and as many for the report, "
        f"seed {record['seed']}, search in {record['precision']}, "
        f"{', '.join(devices)}. In brackets 95% intervals over the images. "
        '"static" attacks, such as those of the paper, do not know the vote or the rejection; '
        '"adaptive" the worst of all attacks, which know all. A rejected attacked image counts as '
        "defended; strict counts only right answers, under the attacks that leave fewest of them."
    )


def cells(experiment: Mapping[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Return a table's head and rows as text, the views side by side."""
    rows = experiment["rows"]
    if experiment["axis"] is None:
        return ["what", "measured", "published", "difference", "n"], [_flat(row) for row in rows]
    columns = views(rows)
    body, last = [], None
    for (series, at), points in pivot(rows).items():
        found = [_cell(points.get(column)) for column in columns]
        body.append([series if series != last else "", f"{at:g}", *found])
        last = series
    return ["", experiment["axis"], *columns], body


def _cell(row: Mapping[str, Any] | None) -> str:
    if row is None or row["found"] is None:
        return ""
    return with_interval(row["found"])


def named(row: Mapping[str, Any]) -> str:
    """Return what a row without a place on an axis is of, in words."""
    words = [row["measure"]] if row["measure"] != "accuracy" else []
    # What needs no word: numbers without an attack.
    words += [_KNEW[row["view"]]] if row["view"] in _KNEW else []
    return f"{row['series']}: {', '.join(words)}" if words else str(row["series"])


def _flat(row: Mapping[str, Any]) -> list[str]:
    found, published = row["found"], row["published"]
    both = found is not None and published is not None
    return [
        named(row),
        with_interval(found) if found else "not measured",
        _percent(published) if published is not None else "",
        f"{100 * (found['value'] - published):+.1f}" if both else "",
        str(found["n"]) if found else "",
    ]


def views(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the columns: what an attack knew, and what is measured if it is no accuracy."""
    ordered = sorted(rows, key=lambda row: (_VIEWS.index(row["view"]), row["measure"]))
    return list(dict.fromkeys(map(_column, ordered)))


def _column(row: Mapping[str, Any]) -> str:
    view, measure = row["view"], row["measure"]
    if view == "none":
        return str(measure)
    return view if measure == "accuracy" else f"{view}, {measure.removesuffix(' accuracy')}"


def pivot(rows: Sequence[Mapping[str, Any]]) -> dict[tuple[str, float], dict[str, Any]]:
    """Return the rows by series and place on the axis, and then by column."""
    found: dict[tuple[str, float], dict[str, Any]] = {}
    for row in rows:
        found.setdefault((row["series"], row["at"]), {})[_column(row)] = row
    order = {series: k for k, series in enumerate(dict.fromkeys(row["series"] for row in rows))}
    return dict(sorted(found.items(), key=lambda item: (order[item[0][0]], item[0][1])))


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"


def _table(experiment: Mapping[str, Any]) -> Table:
    """A terminal's table; an interval stands below its number, so that many fit side by side.

    Heads break between words, or six columns would leave the names no room in 80.
    """
    head, rows = cells(experiment)
    title = f"{experiment['name']}, {experiment['data']}: {experiment['title']}"
    table = Table(title=title, box=box.SIMPLE_HEAD, title_justify="left")
    table.add_column(head[0], overflow="fold", min_width=10)
    for name in head[1:]:
        broken = textwrap.fill(name, 8, break_long_words=False)
        table.add_column(broken, justify="right", no_wrap=True)
    for first, *rest in rows:
        table.add_row(first, *(cell.replace(" [", "\n[") for cell in rest))
    return table
