"""`redoubt train`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from redoubtable.cli.errors import one_line_errors
from redoubtable.cli.options import Device, Json, Root, Seed, device_of, print_json
from redoubtable.data import read
from redoubtable.models import MODELS, create, read_card
from redoubtable.seeding import seeded
from redoubtable.training import Settings
from redoubtable.training import train as run_training


@one_line_errors
def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoint, log and trained model.")],
    data: Annotated[str, typer.Option(help="digits, a .npz file, or its name in --root.")] = (
        "digits"
    ),
    model: Annotated[str, typer.Option(help="As in small_cnn:width=16; see redoubt list.")] = (
        "small_cnn"
    ),
    recipe: Annotated[str, typer.Option(help="natural or subsampled:rate=uniform.")] = "natural",
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Images per step.")] = 128,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="L2 penalty.")] = 5e-4,
    schedule: Annotated[str, typer.Option(help="one-cycle, cosine, steps or constant.")] = (
        "one-cycle"
    ),
    augment: Annotated[str, typer.Option(help="none, crop or crop+flip.")] = "none",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    seed: Seed = 0,
    root: Root = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a network; a run that was stopped goes on when the command is given again.

    Examples:
        redoubt train --out runs/digits
        redoubt train --out runs/sub --recipe subsampled:rate=0.9 --epochs 50
        redoubt train --out runs/c10 --data cifar10 --root data --model resnet20 --precision bf16
    """
    settings = Settings(
        epochs=epochs,
        batch_size=batch_size,
        lr=lr,
        weight_decay=weight_decay,
        schedule=schedule,  # type: ignore[arg-type]  # Settings checks the words
        augment=augment,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        seed=seed,
    )
    images, validation = read(data, "train", root=root), read(data, "validation", root=root)
    bound = MODELS.bind(model)
    shape = {"classes": images.classes, "channels": images.shape[0]}
    with seeded("init", seed):
        network = create(bound.entry.name, **(shape | dict(bound.arguments)))
    run_training(
        network.to(device_of(device)), images, recipe, settings, validation=validation, out=out
    )
    card = read_card(out)
    if json:
        print_json(dict(card.metrics))
        return
    figures = ", ".join(f"{name} {value:.4g}" for name, value in card.metrics.items())
    Console().print(f"{model} on {data}, {recipe}: {figures}\nModel: {out}", highlight=False)
