"""`redoubt export`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from redoubtable.cli.errors import one_line_errors
from redoubtable.files import write_bytes
from redoubtable.reports.export import FORMATS, robustbench
from redoubtable.reports.runs import read_run


@one_line_errors
def export(
    run: Annotated[Path, typer.Argument(help="Folder of redoubt evaluate.")],
    format: Annotated[str, typer.Option(help=f"{', '.join(FORMATS)}.")] = "robustbench",
    out: Annotated[Path | None, typer.Option(help="File to write instead of printing.")] = None,
) -> None:
    """Write a run in the form that another project reads: a model card of RobustBench.

    What the record does not know is null; docs/reports.md says what is filled.

    Examples:
        redoubt export runs/cifar --format robustbench --out Ours2026.json
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; there is {', '.join(FORMATS)}")
    said = json.dumps(robustbench(read_run(run).record), indent=2, allow_nan=False) + "\n"
    if out is None:
        print(said, end="")
    else:
        write_bytes(out, said.encode())
