"""`redoubt evaluate`."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from redoubtable.cli.errors import one_line_errors
from redoubtable.cli.options import (
    Device,
    Json,
    Root,
    Seed,
    command_line,
    device_of,
    print_json,
)
from redoubtable.data import load
from redoubtable.evaluation import SUITES, Settings, guarded
from redoubtable.evaluation import evaluate as run_evaluation
from redoubtable.files import make_folder
from redoubtable.models import load_model, read_card
from redoubtable.reports import show, write_page
from redoubtable.threat import parse_threat


@one_line_errors
def evaluate(
    model: Annotated[Path, typer.Argument(help="Folder of a model that redoubt train wrote.")],
    threat: Annotated[str, typer.Option(help="Linf:8/255, L2:0.5, L1:12 or L0:30 (pixels).")],
    data: Annotated[
        str | None, typer.Option(help="Data set; by default the one the model was trained on.")
    ] = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help=f"pgd:steps=100,restarts=5, or a suite: {', '.join(SUITES)}; repeatable."
        ),
    ] = None,
    defense: Annotated[
        list[str] | None,
        typer.Option(help="subsample:rate=0.9, vote, reject; repeatable, the first innermost."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="How many test images; all by default.")] = None,
    seed: Seed = 0,
    draws: Annotated[int, typer.Option(help="Answers per image of a random model.")] = 20,
    chunk: Annotated[int, typer.Option(help="Images per piece of work.")] = 250,
    batch_size: Annotated[int, typer.Option(help="Network images per pass: bounds memory.")] = 512,
    precision: Annotated[str, typer.Option(help="fp32 or bf16, of the search only.")] = "fp32",
    check: Annotated[bool, typer.Option(help="Run the checks that doubt the result.")] = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder for record, page and journal; resumes.")
    ] = None,
    root: Root = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Attack a model without and with knowledge of its defense, and report both.

    Examples:
        redoubt evaluate runs/digits --threat Linf:0.2
        redoubt evaluate runs/sub --threat L0:20 --defense subsample:rate=0.9 --defense vote
        redoubt evaluate runs/cifar --threat Linf:8/255 --attack pgd:steps=100,restarts=5 --out r1
    """
    ball = parse_threat(threat)
    settings = Settings(
        draws=draws,
        chunk=chunk,
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]  # Settings checks the word
    )
    name = data or str(read_card(model).data.get("name", "digits"))
    network = load_model(model).to(device_of(device))
    x, y = load(name, "test", root=root, limit=limit)
    held_out = load(name, "validation", root=root) if defense else None
    target = guarded(network, defense or [], held_out, seed)
    if out is not None:
        make_folder(out)
    started = time.perf_counter()
    done = run_evaluation(
        target,
        x,
        y,
        ball,
        attack or "adaptive",
        seed=seed,
        settings=settings,
        held_out=held_out and held_out[0],
        check=check,
        out=out,
        name=model.name,
        data=f"{name}, test",
        command=command_line(),
        progress=True,
    )
    timings = {f"{model.name} under {ball}": time.perf_counter() - started}
    if out is not None:
        page = write_page(
            out / "index.html",
            [done.record],
            [done.images],
            title=f"{model.name} under {ball}",
            command=command_line(),
            timings=timings,
            arrays=[done.arrays],
        )
    if json:
        print_json(done.record)
        return
    console = Console()
    show([done.record], console, timings=timings)
    if out is not None:
        console.print(f"\nPage: {page}\nRecord: {out / 'record.json'}", highlight=False)
