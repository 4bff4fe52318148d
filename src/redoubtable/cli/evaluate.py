"""`redoubt evaluate`."""

import math
import os
import time
from pathlib import Path
from typing import Annotated, Any

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
from redoubtable.data import DATASETS, ImageSet, read
from redoubtable.data.loading import ROOT
from redoubtable.data.memory import free_bytes
from redoubtable.defenses import DEFENSES
from redoubtable.evaluation import SUITES, Evaluation, Settings, guarded
from redoubtable.evaluation import evaluate as run_evaluation
from redoubtable.files import make_folder
from redoubtable.models import MODELS, open_model, read_card
from redoubtable.models.cards import Card
from redoubtable.reports import show, write_page
from redoubtable.seeding import seeded
from redoubtable.threat import parse_threat
from redoubtable.types import Labels, LazyImages

_SHARE = 0.25
"""Images are kept in memory as floats where they take at most this share of what is free."""


@one_line_errors
def evaluate(
    model: Annotated[
        str,
        typer.Argument(help="A trained model's folder, resnet20, or package.module:factory."),
    ],
    threat: Annotated[str, typer.Option(help="Linf:8/255, L2:0.5, L1:12 or L0:30 (pixels).")],
    weights: Annotated[
        Path | None, typer.Option(help="Weights of a network that is no folder: .safetensors, .pt.")
    ] = None,
    factory: Annotated[
        str | None,
        typer.Option(help="Code that a model's folder may import: the factory on its card."),
    ] = None,
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
    """Attack a model without and with knowledge of its defense, and report both.

    Images that would crowd the memory are read chunk by chunk.

    Examples:
        redoubt evaluate runs/digits --threat Linf:0.2
        redoubt evaluate runs/sub --threat L0:20 --defense subsample:rate=0.9 --defense vote
        redoubt evaluate runs/cifar --threat Linf:8/255 --attack pgd:steps=100,restarts=5 --out r1
        redoubt evaluate my.nets:build --weights net.safetensors --data photos/ --image-size 224
            --threat Linf:4/255
    """
    ball = parse_threat(threat)
    settings = Settings(
        draws=draws,
        chunk=chunk,
        batch_size=batch_size,
        precision=precision,  # type: ignore[arg-type]  # Settings checks the word
    )
    card = _card(model)
    name = data or _trained_on(model, card)
    how = reading(root, image_size, channels, classes, sizes, draw, damaged, download, workers)
    how = _as_trained(how, name, card)
    images = read(name, "test", limit=limit, **how)
    _check_classes(images, model, card)
    registered = model.strip().partition(":")[0] in MODELS
    if registered and weights is None and "pretrained=true" not in model:
        raise ValueError(
            f"{model} has random weights; give --weights FILE, or the folder of a trained model"
        )
    with seeded("init", seed):
        network = open_model(
            model,
            weights=weights,
            classes=images.classes,
            channels=images.shape[0],
            size=images.shape[1:],
            factory=factory,
        )
    fitted = any(DEFENSES.bind(d).entry.facts["form"] == "rejecting" for d in defense or [])
    held_out = _floats(read(name, "validation", **how), workers) if fitted else None
    target = guarded(network.to(device_of(device)), defense or [], held_out, seed)
    if out is not None:
        make_folder(out)
    x, y = _floats(images, workers)
    called = Path(model).resolve().name if card else model
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
        name=called,
        data=f"{name}, test",
        command=command_line(),
        progress=True,
    )
    _show(done, out, f"{called} under {ball}", time.perf_counter() - started, json)


def _show(done: Evaluation, out: Path | None, title: str, seconds: float, json: bool) -> None:
    """Write the page, and print the record or its tables."""
    timings = {title: seconds}
    if out is not None:
        page = write_page(
            out / "index.html",
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
        console.print(f"\nPage: {page}\nRecord: {out / 'record.json'}", highlight=False)


def _card(model: str) -> Card | None:
    """The card of a trained model's folder; none of another network."""
    registered = model.strip().partition(":")[0] in MODELS
    return read_card(model) if not registered and Path(model).is_dir() else None


def _trained_on(model: str, card: Card | None) -> str:
    if card is None:
        raise ValueError(
            f"{model} is no folder of a trained model, which would say what it was trained on; "
            "name the folder, or give --data"
        )
    return _data_of(card)


def _data_of(card: Card) -> str:
    """The name of the data set that a model was trained on, without stored images beside it."""
    name, stored = str(card.data.get("name", "digits")), card.notes.get("stored images", ())
    return name.rsplit("+", len(stored))[0] if stored else name


def _as_trained(how: dict[str, Any], name: str, card: Card | None) -> dict[str, Any]:
    """The options of data; what is not given is as it was when the model was trained.

    Classes and, of an image folder, the shape are those that the model knows, on whatever data;
    how splits are drawn is said of the data set it was trained on only. Images of another shape
    than a square must have it already.
    """
    if card is None:
        return how | {"draw": how["draw"] or "stratified"}
    told = card.notes.get("reading", {})
    if not isinstance(told, dict) or not isinstance(told.get("sizes"), dict | None):
        raise ValueError("the model card has no valid notes on reading; train the model again")
    known = {"classes": told.get("classes")}
    if _data_of(card) in (Path(name).resolve().name, Path(name).stem):
        known |= {"sizes": told.get("sizes"), "draw": told.get("draw")}
    base = how["root"] or os.environ.get(ROOT)
    places = [Path(name), *([Path(base) / name] if base else [])]
    if name not in DATASETS and any(place.is_dir() for place in places):
        count, height, width = card.data.get("shape", (None, None, None))
        known |= {"channels": count, "size": height if height == width else None}
    given = {key: value for key, value in how.items() if value is not None}
    return how | {"draw": "stratified"} | {k: v for k, v in known.items() if v} | given


def _check_classes(images: ImageSet, model: str, card: Card | None) -> None:
    """Refuse labels that mean other classes than the outputs of the model."""
    if card is not None and images.class_names and images.classes != card.classes:
        raise ValueError(
            f"the model in {model} has {card.classes} classes and {images.name} has "
            f"{images.classes}; name the classes that it was trained on, in their order, with "
            "--classes"
        )


def _floats(images: ImageSet, workers: int) -> tuple[LazyImages, Labels]:
    """Images and labels of a set, in memory if there is room; the results are the same."""
    needed = 4 * math.prod((len(images), *images.shape))
    if needed > _SHARE * free_bytes("cpu"):
        return images.lazy(), images.labels
    return images.floats(workers)
