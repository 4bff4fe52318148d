"""`redoubt evaluate`."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from redoubtable.cli.errors import one_line_errors
from redoubtable.cli.options import (
    Channels,
    Classes,
    Damaged,
    Device,
    Download,
    Draw,
    ImageSize,
    Json,
    Root,
    Seed,
    Sizes,
    Workers,
    command_line,
    device_of,
    print_json,
    reading,
)
from redoubtable.cli.subject import (
    BatchSize,
    Chunk,
    Data,
    Defense,
    Draws,
    Factory,
    HeldOut,
    Limit,
    Model,
    Precision,
    Processes,
    Threat,
    Weights,
    subject,
)
from redoubtable.cli.together import together
from redoubtable.evaluation import SUITES, Evaluation, Settings
from redoubtable.evaluation import evaluate as run_evaluation
from redoubtable.evaluation.curves import CURVE
from redoubtable.files import make_folder
from redoubtable.processes import is_first_process
from redoubtable.reports import show, write_report
from redoubtable.threat import parse_threat


@one_line_errors
def evaluate(
    model: Model,
    threat: Threat,
    weights: Weights = None,
    factory: Factory = None,
    data: Data = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(
            help=f"pgd:steps=100,restarts=5, or a suite: {', '.join(SUITES)}; repeatable."
        ),
    ] = None,
    defense: Defense = None,
    limit: Limit = None,
    held_out: HeldOut = None,
    seed: Seed = 0,
    draws: Draws = 20,
    chunk: Chunk = 250,
    batch_size: BatchSize = 512,
    precision: Precision = "fp32",
    eight_bit: Annotated[
        bool, typer.Option("--eight-bit", help="Round adversarial images to 8 bits.")
    ] = False,
    cascade: Annotated[
        bool | None,
        typer.Option(
            "--cascade/--no-cascade",
            help="Each attack sees only what stands after those before it; else as the suite says.",
        ),
    ] = None,
    check: Annotated[bool, typer.Option(help="Run the checks that doubt the result.")] = True,
    curve: Annotated[
        bool, typer.Option(help="Attack at other radii too, for accuracy against eps.")
    ] = True,
    rates: Annotated[
        bool,
        typer.Option(help="Attack a rejection at 1% and 5% false positives too."),
    ] = True,
    out: Annotated[
        Path | None, typer.Option(help="Folder for record, page and journal; resumes.")
    ] = None,
    root: Root = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    classes: Classes = None,
    sizes: Sizes = None,
    draw: Draw = None,
    damaged: Damaged = "refuse",
    download: Download = False,
    workers: Workers = 2,
    processes: Processes = 1,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Attack a model without and with knowledge of its defense, and report both.

    Images that would crowd the memory are read chunk by chunk. Started by torchrun or accelerate
    launch, or with --processes, several processes share the work.

    Examples:
        redoubt evaluate runs/digits --threat Linf:0.2
        redoubt evaluate runs/sub --threat L0:20 --defense subsample:rate=0.9 --defense vote
        redoubt evaluate runs/cifar --threat Linf:8/255 --attack pgd:steps=100,restarts=5 --out r1
        redoubt evaluate runs/cifar --threat Linf:8/255 --attack standard --precision bf16
        redoubt evaluate my.nets:build --weights net.safetensors --data photos/ --image-size 224
            --threat Linf:4/255
        redoubt evaluate runs/digits --threat Linf:0.2 --processes 4
        torchrun --nproc-per-node 2 -m redoubtable evaluate runs/digits --threat Linf:0.2 --out r2
    """
    ball = parse_threat(threat)
    settings = Settings(
        draws=draws,
        chunk=chunk,
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]  # Settings checks the word
        eight_bit=eight_bit,
    )
    how = reading(root, image_size, channels, classes, sizes, draw, damaged, download, workers)
    target = subject(
        model,
        how,
        weights=weights,
        factory=factory,
        data=data,
        defense=defense,
        limit=limit,
        seed=seed,
        device=device_of(device),
        held_out=held_out,
    )
    if out is not None:
        make_folder(out)
    started = time.perf_counter()
    with together(processes):
        done = run_evaluation(
            target.model,
            target.x,
            target.y,
            ball,
            attack or "adaptive",
            cascade=cascade,
            seed=seed,
            settings=settings,
            held_out=target.held_out if rates else None,
            check=check,
            curve=CURVE if curve else (),
            out=out,
            name=target.name,
            data=target.data,
            command=command_line(),
            progress=True,
        )
    if is_first_process():
        _show(done, out, f"{target.name} under {ball}", time.perf_counter() - started, json)


def _show(done: Evaluation, out: Path | None, title: str, seconds: float, json: bool) -> None:
    """Write the page, and print the record or its tables."""
    timings = {title: seconds}
    if out is not None:
        page = write_report(
            out,
            [done.record],
            [done.images],
            title=title,
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
        said = f"\nPage: {page}\nRecord: {out / 'record.json'}"
        console.print(said, highlight=False, soft_wrap=True)  # a path must stay whole
