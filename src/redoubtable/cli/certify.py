"""`redoubt certify`."""

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
    Data,
    Defense,
    Factory,
    HeldOut,
    Limit,
    Model,
    Weights,
    subject,
)
from redoubtable.evaluation import certified
from redoubtable.files import make_folder
from redoubtable.processes import is_first_process
from redoubtable.reports import show_certificate


@one_line_errors
def certify(
    model: Model,
    weights: Weights = None,
    factory: Factory = None,
    data: Data = None,
    certificate: Annotated[
        str, typer.Option(help="smoothing or ablation; see redoubt list certificates.")
    ] = "smoothing",
    noise: Annotated[
        float | None, typer.Option(help="Short for --certificate smoothing:noise=0.25.")
    ] = None,
    n0: Annotated[int, typer.Option(help="Samples that choose the class.")] = 100,
    n: Annotated[int, typer.Option(help="Samples that bound its probability.")] = 1000,
    alpha: Annotated[
        float, typer.Option(help="Probability, at most, that a certificate is wrong.")
    ] = 0.001,
    runner_up: Annotated[
        bool, typer.Option("--runner-up", help="Bound every other class by its own votes too.")
    ] = False,
    radius: Annotated[
        list[float] | None, typer.Option(help="Of the table; repeatable. Up to five by default.")
    ] = None,
    defense: Defense = None,
    limit: Limit = None,
    held_out: HeldOut = None,
    seed: Seed = 0,
    batch_size: BatchSize = 512,
    out: Annotated[Path | None, typer.Option(help="Folder of the record; resumes.")] = None,
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
    """Certify how far images may change before a randomised model answers otherwise.

    Examples:
        redoubt certify runs/digits --noise 0.25 --n0 100 --n 1000 --limit 100
        redoubt certify runs/cifar --noise 0.12 --radius 0 --radius 0.1 --radius 0.25 --out c1
        redoubt certify runs/gtsrb --certificate ablation:rate=0.9 --n0 1000 --n 10000 --alpha 0.05
        redoubt certify runs/cifar --certificate ablation:keep=75 --radius 1 --radius 3 --limit 100
    """
    if noise is not None:
        if certificate != "smoothing":
            raise ValueError(
                f"--noise is short for --certificate smoothing:noise={noise:g}; write the noise "
                f"of {certificate!r} in its own arguments"
            )
        certificate = f"smoothing:noise={noise!r}"
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
    done = certified(
        target.model,
        target.x,
        target.y,
        certificate,
        n0=n0,
        n=n,
        alpha=alpha,
        runner_up=runner_up,
        radii=radius,
        seed=seed,
        batch_size=batch_size,
        out=out,
        name=target.name,
        data=target.data,
        command=command_line(),
        progress=True,
    )
    if not is_first_process():
        return
    if json:
        print_json(done.record)
        return
    console = Console()
    show_certificate(done.record, console)
    if out is not None:
        console.print(f"Record: {out / 'record.json'}", highlight=False, soft_wrap=True)
