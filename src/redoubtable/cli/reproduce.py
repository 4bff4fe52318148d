"""`redoubt reproduce`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from redoubtable.cli.errors import one_line_errors
from redoubtable.cli.options import Device, Json, Root, Seed, command_line, device_of, print_json
from redoubtable.cli.subject import Precision
from redoubtable.files import file_name
from redoubtable.papers import PAPERS
from redoubtable.papers import reproduce as run_reproduction
from redoubtable.reports import show_reproduction, write_reproduction


def _beyond() -> str:
    """The experiments that no paper numbers."""
    told = []
    for entry in PAPERS:
        names = [e.name for e in entry.obj().experiments]
        names = [n for n in names if n.partition("-")[0] not in ("table", "figure")]
        told.append(f"{entry.name}: {', '.join(names)}.")
    return " ".join(told)


def default_folder(paper: str, scale: str, precision: str, seed: int) -> Path:
    """Return the folder of a run: runs that may not share one have others."""
    more = [precision] * (precision != "fp32") + [f"seed={seed}"] * (seed != 0)
    return Path("reproduced") / file_name("-".join([paper, scale, *more]))


@one_line_errors
def reproduce(
    paper: Annotated[str, typer.Argument(help=f"One of: {', '.join(p.name for p in PAPERS)}.")],
    table: Annotated[list[int] | None, typer.Option(help="A table by number; repeatable.")] = None,
    figure: Annotated[
        list[int] | None, typer.Option(help="A figure by number; repeatable.")
    ] = None,
    beyond: Annotated[
        list[str] | None,
        typer.Option(help=f"What the paper has not, by name; repeatable. {_beyond()}"),
    ] = None,
    scale: Annotated[
        str,
        typer.Option(
            help="smoke (digits, a minute), cpu (hours) or full (a GPU); cpu:images=200,draws=3."
        ),
    ] = "smoke",
    data: Annotated[
        str | None, typer.Option(help="A data set instead of those of the scale.")
    ] = None,
    root: Root = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder; resumes. By default one in reproduced/ by paper and scale."),
    ] = None,
    seed: Seed = 0,
    precision: Precision = "fp32",
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Run a paper's experiments: published beside measured, static beside adaptive.

    Without --table, --figure or --beyond all of them run. What is finished is kept; a run that was
    stopped goes on when the command is given again.

    Examples:
        redoubt reproduce dropping-pixels
        redoubt reproduce dropping-pixels --table 1 --scale cpu --root data
        redoubt reproduce dropping-pixels --figure 5 --scale cpu --data gtsrb --root data
        redoubt reproduce dropping-pixels --beyond certificate --scale cpu --root data
        redoubt reproduce mvm --table 3 --scale cpu --data mnist --root data
    """
    asked = [f"table-{n}" for n in table or ()] + [f"figure-{n}" for n in figure or ()]
    folder = out or default_folder(paper, scale, precision, seed)
    record = run_reproduction(
        paper,
        [*asked, *(beyond or ())],
        out=folder,
        scale=scale,
        data=data,
        root=root,
        seed=seed,
        device=device_of(device),
        precision=precision,
        command=command_line(),
    )
    page = write_reproduction(folder)
    if json:
        print_json(record)
        return
    console = Console()
    show_reproduction(record, console)
    said = f"\nPage: {page}\nRecord: {folder / 'record.json'}"
    console.print(said, highlight=False, soft_wrap=True)
