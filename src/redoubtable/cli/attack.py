"""`redoubt attack`."""

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
    Threat,
    Weights,
    subject,
)
from redoubtable.data.memory import check_room
from redoubtable.evaluation import SUITES, Settings
from redoubtable.evaluation import evaluate as run_evaluation
from redoubtable.files import make_folder
from redoubtable.reports import show, write_adversarial
from redoubtable.threat import parse_threat


@one_line_errors
def attack(
    model: Model,
    threat: Threat,
    weights: Weights = None,
    factory: Factory = None,
    data: Data = None,
    attack: Annotated[
        list[str] | None,
        typer.Option(help=f"pgd:steps=100, or a suite: {', '.join(SUITES)}; repeatable."),
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
        bool, typer.Option(help="Round the images to 8 bits, as a file holds them.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder for images, picture and record; resumes.")] = (
        Path("attacked")
    ),
    root: Root = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    classes: Classes = None,
    sizes: Sizes = None,
    draw: Draw = None,
    damaged: Damaged = "refuse",
    download: Download = False,
    workers: Workers = 2,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Write the adversarial images of attacks that know the model and its defense.

    OUT/adversarial.npz has x_test and y_test (the true labels), as `--data` reads them, of each
    example's worst attack, and beside them the answers; OUT/sheet.png shows the first; record.json
    says how they were made and what they are worth.

    Examples:
        redoubt attack runs/digits --threat Linf:0.2 --limit 100 --out adversarial
        redoubt attack runs/cifar --threat L2:0.5 --attack carlini_wagner --attack pgd
        redoubt evaluate runs/other --data adversarial/adversarial.npz --threat Linf:1/255
    """
    ball = parse_threat(threat)
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
    check_room("keeping the adversarial images", target.x.shape)
    make_folder(out)
    settings = Settings(
        draws=draws,
        chunk=chunk,
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]  # Settings checks the word
        eight_bit=eight_bit,
        keep=len(target.x),
    )
    done = run_evaluation(
        target.model,
        target.x,
        target.y,
        ball,
        attack or "adaptive",
        seed=seed,
        settings=settings,
        curve=(),
        check=False,
        out=out,
        name=target.name,
        data=target.data,
        command=command_line(),
        progress=True,
    )
    images, picture = write_adversarial(out, done)
    if json:
        print_json(done.record)
        return
    console = Console()
    show([done.record], console)
    said = f"\nImages: {images}\nPicture: {picture}\nRecord: {out / 'record.json'}"
    console.print(said, highlight=False, soft_wrap=True)  # a path must stay whole
