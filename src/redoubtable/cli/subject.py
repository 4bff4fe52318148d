"""What `redoubt evaluate` and `redoubt attack` are about: a trained model and images."""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from redoubtable.data import DATASETS, ImageSet, read
from redoubtable.data.loading import ROOT
from redoubtable.data.memory import free_bytes
from redoubtable.evaluation import guarded
from redoubtable.evaluation.guard import needs_clean
from redoubtable.evaluation.watching import watched
from redoubtable.models import MODELS, open_model, read_card
from redoubtable.models.cards import Card
from redoubtable.seeding import seeded
from redoubtable.types import Labels, LazyImages

_SHARE = 0.25
"""Images are kept in memory as floats where they take at most this share of what is free."""

Model = Annotated[
    str,
    typer.Argument(help="A trained model's folder, resnet20, or package.module:factory."),
]
Threat = Annotated[str, typer.Option(help="Linf:8/255, L2:0.5, L1:12, L0:30, L0values:90.")]
Weights = Annotated[
    Path | None, typer.Option(help="Weights of a network that is no folder: .safetensors, .pt.")
]
Factory = Annotated[
    str | None,
    typer.Option(help="Code that a model's folder may import: the factory on its card."),
]
Data = Annotated[
    str | None, typer.Option(help="Data set; by default the one the model was trained on.")
]
Defense = Annotated[
    list[str] | None,
    typer.Option(help="subsample:rate=0.9, vote, reject; repeatable, the first innermost."),
]
Limit = Annotated[int | None, typer.Option(help="How many test images; all by default.")]
HeldOut = Annotated[
    int | None,
    typer.Option(help="How many held-out images a rejection is fitted to; all by default."),
]
Draws = Annotated[int, typer.Option(help="Answers per image of a random model.")]
Chunk = Annotated[int, typer.Option(help="Images per piece of work.")]
BatchSize = Annotated[int, typer.Option(help="Network images per pass: bounds memory.")]
Precision = Annotated[str, typer.Option(help="fp32 or bf16, of the search only.")]
Processes = Annotated[int, typer.Option(help="Processes of this machine that share the work.")]


@dataclass(frozen=True)
class Subject:
    """A model as it is attacked, and the images.

    Attributes:
        model: with its defense, not yet on a device.
        x: (N, C, H, W) test images, in memory or read when they are asked for.
        y: (N,) labels.
        held_out: images that a defense was fitted to, where one was.
        name: of the model.
        data: what the images are.
    """

    model: nn.Module
    x: LazyImages
    y: Labels
    held_out: LazyImages | None
    name: str
    data: str


def subject(
    model: str,
    how: dict[str, Any],
    *,
    weights: Path | None,
    factory: str | None,
    data: str | None,
    defense: Sequence[str] | None,
    limit: int | None,
    seed: int,
    device: torch.device,
    held_out: int | None = None,
) -> Subject:
    """Open what the options name.

    Args:
        model: a folder, a registered name or a factory.
        how: how data is read, from `reading`.
        weights: of a network that is no folder.
        factory: code that a folder may import.
        data: the data set, or None for the model's own.
        defense: as on the command line, innermost first.
        limit: how many test images.
        seed: of what is drawn to build or fit a defense.
        device: where the model is put.
        held_out: how many held-out images a rejection is fitted to.

    Raises:
        ValueError: an option names what is not there or does not fit the others.
    """
    card = _card(model)
    name = data or _trained_on(model, card)
    how = as_trained(how, name, card)
    images = read(name, "test", limit=limit, **how)
    check_classes(images, model, card)
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
    fitted = needs_clean(defense or [])
    if held_out is not None and not fitted:
        raise ValueError("`held-out` is of a defense that rejects; leave it out, or add one")
    workers = how["workers"]
    clean: tuple[LazyImages, Labels] | None = None
    if fitted:
        try:
            clean = _floats(read(name, "validation", limit=held_out, **how), workers)
        except ValueError as error:  # under the name that the user knows it by
            raise ValueError(str(error).replace("`limit`", "`held-out`", 1)) from None
    with watched(clean, "fitting a threshold to clean images") as fit:
        target = guarded(network.to(device), defense or [], fit, seed)
    x, y = _floats(images, workers)
    called = Path(model).resolve().name if card else model
    return Subject(target, x, y, clean and clean[0], called, f"{name}, test")


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
    return data_of(card)


def data_of(card: Card) -> str:
    """The name of the data set that a model was trained on, without stored images beside it."""
    name, stored = str(card.data.get("name", "digits")), card.notes.get("stored images", ())
    return name.rsplit("+", len(stored))[0] if stored else name


def as_trained(how: dict[str, Any], name: str, card: Card | None) -> dict[str, Any]:
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
    if data_of(card) in (Path(name).resolve().name, Path(name).stem):
        known |= {"sizes": told.get("sizes"), "draw": told.get("draw")}
    base = how["root"] or os.environ.get(ROOT)
    places = [Path(name), *([Path(base) / name] if base else [])]
    if name not in DATASETS and any(place.is_dir() for place in places):
        count, height, width = card.data.get("shape", (None, None, None))
        known |= {"channels": count, "size": height if height == width else None}
    given = {key: value for key, value in how.items() if value is not None}
    return how | {"draw": "stratified"} | {k: v for k, v in known.items() if v} | given


def check_classes(images: ImageSet, model: str, card: Card | None) -> None:
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
