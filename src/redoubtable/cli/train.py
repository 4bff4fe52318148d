"""`redoubt train`."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

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
from redoubtable.data import Joined, read
from redoubtable.models import MODELS, open_model, read_card
from redoubtable.processes import is_first_process
from redoubtable.seeding import seeded
from redoubtable.training import PRESETS, Preset, Settings, Stored, read_stored
from redoubtable.training import settings as words
from redoubtable.training import train as run_training


def _one_of(words: Any) -> str:
    *most, last = get_args(words)
    return f"{', '.join(most)} or {last}."


_DEFAULT = Preset("small_cnn", "natural", Settings(epochs=30, weight_decay=5e-4))


@one_line_errors
def train(
    out: Annotated[Path, typer.Option(help="Folder for checkpoints, log and trained model.")],
    data: Annotated[
        str, typer.Option(help="digits, mnist, cifar10, ..., a .npz file, or an image folder.")
    ] = "digits",
    preset: Annotated[
        str | None,
        typer.Option(
            help="Model, recipe and settings of a paper; options given replace single ones."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="small_cnn:width=16, a saved model's folder, or package.module:factory."),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Weights to start from: .safetensors, or .pt without code.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(help="natural, subsampled:rate=0.9, trades; see redoubt list.")
    ] = None,
    stored: Annotated[
        list[Path] | None,
        typer.Option(help="Folder of `redoubt store`, trained on beside the data; repeatable."),
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training data.")] = None,
    batch_size: Annotated[
        int | None, typer.Option(help="Images per step, of all processes together.")
    ] = None,
    lr: Annotated[float | None, typer.Option(help="Highest learning rate.")] = None,
    optimizer: Annotated[str | None, typer.Option(help=_one_of(words.Optimizer))] = None,
    momentum: Annotated[float | None, typer.Option(help="Of sgd.")] = None,
    weight_decay: Annotated[float | None, typer.Option(help="L2 penalty.")] = None,
    schedule: Annotated[str | None, typer.Option(help=_one_of(words.Schedule))] = None,
    milestones: Annotated[
        str | None, typer.Option(help="Epochs after which the rate of steps falls: 75,90.")
    ] = None,
    augment: Annotated[str | None, typer.Option(help=_one_of(words.Augmentation))] = None,
    precision: Annotated[str | None, typer.Option(help=_one_of(words.Precision))] = None,
    clip: Annotated[float | None, typer.Option(help="Longest norm of the gradient.")] = None,
    ema: Annotated[float | None, typer.Option(help="Decay of the mean of the weights.")] = None,
    seed: Seed = 0,
    root: Root = None,
    image_size: ImageSize = None,
    channels: Channels = None,
    classes: Classes = None,
    sizes: Sizes = None,
    draw: Draw = "stratified",
    damaged: Damaged = "refuse",
    download: Download = False,
    workers: Workers = 2,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write the log to OUT/tensorboard.")
    ] = False,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Train a network; a run that was stopped goes on when the command is given again.

    Started by torchrun or accelerate launch, several processes train one network together.

    Examples:
        redoubt train --out runs/digits
        redoubt train --out runs/sub --recipe subsampled:rate=0.9 --epochs 50
        redoubt train --out runs/c10 --data cifar10 --root data --model resnet20
        redoubt train --out runs/trades --data cifar10 --preset trades-cifar10
        redoubt train --out runs/own --data photos/ --image-size 64 --model my.nets:build
        torchrun --nproc-per-node 2 -m redoubtable train --out runs/two
    """
    plan = PRESETS.bind(preset).entry.obj() if preset else _DEFAULT
    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "lr": lr,
        "optimizer": optimizer,
        "momentum": momentum,
        "weight_decay": weight_decay,
        "schedule": schedule,
        "milestones": _whole_numbers(milestones),
        "augment": augment,
        "precision": precision,
        "clip": clip,
        "ema": ema,
    }
    settings = _settings(plan.settings, {k: v for k, v in given.items() if v is not None}, seed)
    how = reading(root, image_size, channels, classes, sizes, draw, damaged, download, workers)
    images, validation = read(data, "train", **how), read(data, "validation", **how)
    with seeded("init", seed):
        network = open_model(
            model or MODELS.text(plan.model, plan.arguments),
            weights=weights,
            classes=images.classes,
            channels=images.shape[0],
            size=images.shape[1:],
        )
    extra = [_to_train_on(folder) for folder in stored or []]
    sets = [images, *(one.images() for one in extra)]
    notes: dict[str, Any] = {"command": command_line()}
    told = {k: how[k] for k in ("size", "channels", "classes", "sizes", "draw")}
    if reading_again := {k: v for k, v in told.items() if v not in (None, "stratified")}:
        notes["reading"] = reading_again
    if extra:
        notes["stored images"] = [dict(one.card) for one in extra]
    run_training(
        network.to(device_of(device)),
        Joined("+".join(s.name for s in sets), "train", tuple(sets)) if stored else images,
        recipe or plan.recipe,
        settings,
        validation=validation,
        out=out,
        workers=workers,
        tensorboard=tensorboard,
        notes=notes,
    )
    if not is_first_process():
        return
    card = read_card(out)
    if json:
        print_json(dict(card.metrics))
        return
    figures = ", ".join(f"{name} {value:.4g}" for name, value in card.metrics.items())
    text = f"{card.architecture} on {data}, {card.recipe}: {figures}\nModel: {out}"
    Console().print(text, highlight=False)


def _to_train_on(folder: Path) -> Stored:
    """Read stored images that training may see."""
    found = read_stored(folder)
    split = found.card["data"]["split"]
    if split != "train":
        raise ValueError(
            f"`stored` must be made of training images, got {folder}, made of those to {split} "
            "with; store them with --split train"
        )
    return found


def _settings(base: Settings, given: dict[str, Any], seed: int) -> Settings:
    """The settings of a preset with those given in their places."""
    if "schedule" in given or "epochs" in given:  # the preset's falls were made for its own
        given = {"milestones": None, **given}
    return replace(base, **given, seed=seed)


def _whole_numbers(text: str | None) -> tuple[int, ...] | None:
    if text is None:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ValueError(f"`milestones` must be whole numbers as in 75,90, got {text!r}") from None
