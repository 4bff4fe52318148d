"""`redoubt compare`."""

import json as json_text
from pathlib import Path
from typing import Annotated

import typer

from redoubtable.cli.errors import one_line_errors
from redoubtable.cli.options import Json, print_json
from redoubtable.files import write_bytes
from redoubtable.reports.compare import compare as compare_runs
from redoubtable.reports.compare import comparison_markdown
from redoubtable.reports.runs import read_run


@one_line_errors
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of redoubt evaluate, two or more.")],
    out: Annotated[
        Path | None, typer.Option(help="File to write, .md or .json, beside what is printed.")
    ] = None,
    json: Json = False,
) -> None:
    """Compare models that were evaluated on the same images under the same threat, image by image.

    Each two runs: the difference with its interval, McNemar's exact test, and how many images only
    one of the two answers well.

    Examples:
        redoubt compare runs/natural runs/guard
        redoubt compare runs/a runs/b runs/c --out comparison.md
    """
    if out is not None and out.suffix not in (".md", ".json"):
        raise ValueError(f"`out` must end in .md or .json, got {out}")
    found = compare_runs([read_run(run) for run in runs])
    said = comparison_markdown(found)
    if out is not None:
        as_json = json_text.dumps(found, indent=1, allow_nan=False) + "\n"
        write_bytes(out, (as_json if out.suffix == ".json" else said).encode())
    if json:
        print_json(found)
    else:
        print(said, end="")
