"""`redoubt list` and `redoubt env`."""

import enum
import inspect
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from redoubtable.attacks import ATTACKS, TARGETS
from redoubtable.certification import CERTIFICATES
from redoubtable.cli.errors import one_line_errors
from redoubtable.cli.options import Json, print_json
from redoubtable.data import DATASETS
from redoubtable.defenses import DEFENSES
from redoubtable.detectors import SCORES
from redoubtable.evaluation import SUITES, Suite, environment
from redoubtable.losses import LOSSES
from redoubtable.models import MODELS
from redoubtable.papers import PAPERS
from redoubtable.registry import Entry, Registry, settable
from redoubtable.threat import THREATS
from redoubtable.training import PRESETS, RECIPES

REGISTRIES: Mapping[str, Registry[Any]] = {
    "attacks": ATTACKS,
    "defenses": DEFENSES,
    "scores": SCORES,
    "certificates": CERTIFICATES,
    "models": MODELS,
    "recipes": RECIPES,
    "presets": PRESETS,
    "data": DATASETS,
    "losses": LOSSES,
    "targets": TARGETS,
    "papers": PAPERS,
}
KINDS = (*REGISTRIES, "suites")
Kind = enum.StrEnum("Kind", list(KINDS))  # type: ignore[misc]


def rows(kind: str) -> list[dict[str, str]]:
    """Return what is registered of one kind: name, what it is, facts, arguments."""
    if kind == "suites":
        return [
            {"name": name, "what it is": suite.summary, "facts": _lines(suite), "arguments": ""}
            for name, suite in SUITES.items()
        ]
    return [
        {
            "name": entry.name,
            "what it is": entry.summary,
            "facts": _facts(entry),
            "arguments": _arguments(entry),
        }
        for entry in REGISTRIES[kind]
    ]


def _lines(suite: Suite) -> str:
    """The attacks of a suite, alike ones together, each with the norms that it is meant for."""
    order = "one after the other, each on what still stands" if suite.cascade else "each on all"
    alike: dict[tuple[str, str], list[str]] = {}
    for line in suite.lines:
        everywhere = set(line.norms) == set(THREATS.values())
        draws = f", {line.passes} passes a gradient" if line.passes else ""
        draws += f" at {line.randomness:g} of the randomness" if line.randomness != 1 else ""
        for_ = "" if everywhere else f" ({_plain(line.norms)}{draws})"
        alike.setdefault((line.text.partition(":")[0], for_), []).append(line.text)
    return f"{order}: {'; '.join(_together(texts) + for_ for (_, for_), texts in alike.items())}"


def _together(texts: list[str]) -> str:
    """Attacks of one name: what all have once, and what some have as alternatives."""
    name = texts[0].partition(":")[0]
    sets = [text.partition(":")[2].split(",") for text in texts]
    common = [pair for pair in sets[0] if pair and all(pair in one for one in sets)]
    rest = [",".join(p for p in one if p and p not in common) for one in sets]
    shown = f"`{name}{':' if common else ''}{','.join(common)}`"
    if not any(rest):
        return shown
    return f"{shown} with {' or '.join(f'`{r}`' if r else 'nothing' for r in rest)}"


def _facts(entry: Entry[Any]) -> str:
    shown = {k: v for k, v in entry.facts.items() if v is not None}
    return "; ".join(f"{k}: {_plain(v)}" for k, v in shown.items())


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {v}" for k, v in value.items())
    if isinstance(value, tuple):
        return ", ".join(_plain(v) for v in value)
    return value.name if inspect.isclass(value) and hasattr(value, "name") else str(value)


def _arguments(entry: Entry[Any]) -> str:
    """Arguments with their defaults, as they are written on the command line."""
    target = entry.obj.__init__ if inspect.isclass(entry.obj) else entry.obj
    parameters = inspect.signature(target).parameters
    pairs = []
    for name in settable(entry.obj):
        default = parameters[name].default
        shown = getattr(default, "__name__", default)
        pairs.append(f"{name}={str(shown).lower() if default is None else shown}")
    return ", ".join(pairs)


def markdown(kind: str) -> str:
    """Return the table of one kind as the README has it."""
    table = rows(kind)
    columns = [c for c in table[0] if any(r[c] for r in table)]
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for row in table:
        cells = (row[c].replace("|", "\\|") for c in columns)
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


@one_line_errors
def listing(
    kind: Annotated[
        Kind | None, typer.Argument(help="What to list; everything by default.")
    ] = None,
    json: Json = False,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the tables of the README.")
    ] = False,
) -> None:
    """List attacks, defenses, models, recipes, data and more, with their facts and arguments.

    Examples:
        redoubt list attacks
        redoubt list --json
    """
    kinds = [kind.value] if kind else list(KINDS)
    if json:
        print_json({k: rows(k) for k in kinds})
        return
    console = Console()
    for name in kinds:
        if as_markdown:
            print(f"### {name}\n\n{markdown(name)}\n")
            continue
        table = Table(title=name, title_justify="left", title_style="bold", show_lines=True)
        table.add_column("name", no_wrap=True, style="bold")
        table.add_column("what it is, facts, arguments")
        for row in rows(name):
            text = row["what it is"]
            text += f"\n[dim]{row['facts']}[/dim]" if row["facts"] else ""
            text += f"\n{name and row['name']}:{row['arguments']}" if row["arguments"] else ""
            table.add_row(row["name"], text)
        console.print(table)


@one_line_errors
def env(json: Json = False) -> None:
    """Show versions and hardware, as records carry them and bug reports should.

    Examples:
        redoubt env
        redoubt env --json
    """
    facts = environment("cpu")
    if json:
        print_json(facts)
        return
    table = Table(show_header=False)
    for key, value in facts.items():
        shown = value if not isinstance(value, dict) else _plain(value)
        table.add_row(key, str(shown))
    Console().print(table)
