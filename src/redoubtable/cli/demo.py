"""`redoubt demo`."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from redoubtable.cli.errors import one_line_errors
from redoubtable.cli.options import Json, Seed, print_json
from redoubtable.cli.together import is_fellow, is_launched, together
from redoubtable.demo import demo as run_demo
from redoubtable.demo import train_networks
from redoubtable.processes import is_first_process
from redoubtable.reports import show, show_certificate, write_report


@one_line_errors
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the models, the record and the page.")] = (
        Path("redoubt-demo")
    ),
    seed: Seed = 0,
    processes: Annotated[
        int | None, typer.Option(help="Processes that share the work; by default two.")
    ] = None,
    json: Json = False,
) -> None:
    """Train, guard and attack on real digits: the whole job in three minutes.

    Trains a small network twice on the embedded handwritten digits (as usual, and on subsampled
    images), guards the second with random pixel subsampling, ten votes and entropy rejection, the
    first with sampled feature maps whose labels must agree, and attacks all of them without and
    with knowledge of the defense. Run again, it resumes. Networks this small gain nothing from a
    second thread, so two processes share the work.

    Examples:
        redoubt demo
        redoubt demo --out /tmp/demo --seed 1
    """
    seconds: dict[str, float] = {}
    if not is_fellow():
        started = time.perf_counter()
        train_networks(out, seed=seed)
        seconds["training"] = time.perf_counter() - started
    if processes is None:
        processes = 1 if is_launched() else 2
    with together(processes):
        done = run_demo(out, seed=seed)
    if not is_first_process():
        return
    seconds |= done.seconds
    records = done.record["evaluations"]
    page = write_report(
        out,
        records,
        done.images,
        title="Redoubtable demo: a network and a guard on handwritten digits",
        command=done.record["command"],
        timings=seconds,
        arrays=done.arrays,
        certificates=done.record["certificates"],
    )
    if json:
        print_json(done.record)
        return
    console = Console()
    show(records, console, timings=seconds)
    for certificate in done.record["certificates"]:
        console.print()
        show_certificate(certificate, console)
    console.print(f"\nPage: {page}\nRecord: {out / 'record.json'}", highlight=False)
