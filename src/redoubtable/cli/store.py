"""`redoubt store`."""

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
from redoubtable.cli.subject import as_trained, check_classes, data_of
from redoubtable.data import read
from redoubtable.models import load_model, read_card
from redoubtable.threat import parse_threat
from redoubtable.training import store as run_store


@one_line_errors
def store(
    model: Annotated[Path, typer.Argument(help="Folder of the model to attack.")],
    threat: Annotated[str, typer.Option(help="Linf:8/255, L2:0.5, L1:12, L0:30, L0values:90.")],
    out: Annotated[Path, typer.Option(help="Folder for the images and their card; resumes.")],
    attack: Annotated[str, typer.Option(help="fgsm, pgd:steps=10; see redoubt list.")] = (
        "pgd:steps=10"
    ),
    label: Annotated[str, typer.Option(help="The class to leave: true or predicted.")] = "true",
    transfer_to: Annotated[
        str | None, typer.Option(help="The model that is meant, if not the attacked one.")
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(help="Code that a model's folder may import: the factory on its card."),
    ] = None,
    data: Annotated[
        str | None, typer.Option(help="Data set; by default the one the model was trained on.")
    ] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    limit: Annotated[int | None, typer.Option(help="How many images; all by default.")] = None,
    seed: Seed = 0,
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
    """Attack every image of a set once and keep the results, to train on with `--stored`.

    What is not said of the data is as it was when the model was trained.

    Examples:
        redoubt store runs/digits --threat Linf:0.12 --attack fgsm --out stored/fgsm
        redoubt store runs/c10 --threat Linf:8/255 --label predicted --out stored/pgd
        redoubt train --out runs/offline --stored stored/fgsm --stored stored/pgd
    """
    how = reading(root, image_size, channels, classes, sizes, draw, damaged, download, workers)
    card = read_card(model)
    name = data or data_of(card)
    images = read(name, split, limit=limit, **as_trained(how, name, card))
    check_classes(images, str(model), card)
    done = run_store(
        load_model(model, factory=factory).to(device_of(device)),
        images,
        attack,
        parse_threat(threat),
        out,
        label=label,  # type: ignore[arg-type]  # store checks the word
        model_name=model.name,
        transfer_to=transfer_to,
        seed=seed,
        command=command_line(),
    )
    if json:
        print_json(dict(done.card))
        return
    found = done.card["accuracy of the attacked model"]
    Console().print(
        f"{found['n']} images of {name} ({split}) under {attack} at {threat}: {model.name} is "
        f"right on {found['clean']:.1%} of them clean, {found['stored']:.1%} attacked\n"
        f"Stored: {out}",
        highlight=False,
    )
