"""`redoubt explain`."""

import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, cast

import torch
import typer
from rich.console import Console
from torch import Tensor, nn

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
from redoubtable.cli.subject import BatchSize, Data, Factory, Model, Subject, Weights, subject
from redoubtable.evaluation import environment
from redoubtable.evaluation.border import classes_of
from redoubtable.evaluation.summary import describe
from redoubtable.explanations import (
    MassShare,
    centre_shares,
    concentration,
    even_share,
    first_layer_filters,
    mass_share,
    peak_shares,
    subsampled_maps,
)
from redoubtable.files import digest_model
from redoubtable.masks import Granularity, check_law
from redoubtable.reports.explanations import show_explanation, write_explanation
from redoubtable.statistics import wilson


@one_line_errors
def explain(
    model: Model,
    weights: Weights = None,
    factory: Factory = None,
    data: Data = None,
    rate: Annotated[float, typer.Option(help="Share of values that are dropped, 0 to 1.")] = 0.9,
    granularity: Annotated[
        str, typer.Option(help="element drops channels of a pixel by themselves; or pixel.")
    ] = "element",
    limit: Annotated[int, typer.Option(help="How many test images are measured.", min=1)] = 500,
    show: Annotated[int, typer.Option(help="How many of them are drawn.", min=1)] = 8,
    seed: Seed = 0,
    batch_size: BatchSize = 64,
    out: Annotated[Path, typer.Option(help="Folder for pictures, arrays and record.")] = (
        Path("explained")
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
    """Draw what a network looks at, in images and in the same images subsampled at random.

    OUT/explanation.png (and .svg) has six columns: image, subsampled image, input gradients of
    both, and the second's part on kept and on dropped values. OUT/filters.png has the filters of
    the first convolution. The mass on kept values is measured on all images; record.json has it.

    Examples:
        redoubt explain runs/digits --rate 0.9 --limit 8 --out explained
        redoubt explain zoo/gtsrb-resnet20-subsampled --root data --rate 0.9 --show 4
        redoubt explain runs/pixels --rate 0.8 --granularity pixel --json
    """
    kind = cast(Granularity, granularity)
    check_law(rate, kind)  # before anything is opened
    how = reading(root, image_size, channels, classes, sizes, draw, damaged, download, workers)
    target = subject(
        model,
        how,
        weights=weights,
        factory=factory,
        data=data,
        defense=None,
        limit=limit,
        seed=seed,
        device=device_of(device),
    )
    count = classes_of(target.model, target.x, target.y)
    shown = target.x[:show].to(device_of(device))
    maps = subsampled_maps(target.model, shown, rate, kind, seed, batch_size=batch_size)
    found = mass_share(target.model, target.x, rate, kind, seed, batch_size=batch_size)
    filters = _filters(target.model)
    settings = {
        "rate": rate,
        "granularity": kind,
        "seed": seed,
        "draws": 1,
        "shown": len(shown),
        "batch_size": batch_size,
    }
    record = _record(target, settings, count, found, filters)
    labels = [f"label {label}" for label in target.y[:show].tolist()]
    write_explanation(out, record, maps, labels, filters, found.each)
    if json:
        print_json(record)
        return
    console = Console()
    show_explanation(record, console)
    said = f"Pictures: {out / 'explanation.png'}"
    said += f", {out / 'filters.png'}" if filters is not None else ""
    console.print(f"{said}\nRecord: {out / 'record.json'}", highlight=False, soft_wrap=True)


def _filters(model: nn.Module) -> Tensor | None:
    """The first layer's filters; a warning and None where no layer has any."""
    try:
        return first_layer_filters(model)
    except ValueError as error:
        warnings.warn(str(error), stacklevel=2)
        return None


def _record(
    target: Subject,
    settings: dict[str, Any],
    classes: int,
    found: MassShare,
    filters: Tensor | None,
) -> dict[str, Any]:
    """What is told of an explanation; docs/explanations.md says what each number is."""
    n = len(target.x)
    right = int((found.classes.cpu() == target.y.cpu()).sum())
    device = next((p.device for p in target.model.parameters()), torch.device("cpu"))
    return {
        "schema": 1,
        "kind": "explanation",
        "name": target.name,
        "command": command_line(),
        "settings": settings,
        "model": describe(target.model, digest_model(target.model), classes),
        "data": {"name": target.data, "n": n, "shape": list(target.x.shape[1:])},
        "mass_share": asdict(found.mass),
        "kept_share": found.kept,
        "accuracy": asdict(wilson(right, n)),
        "filters": None
        if filters is None
        else {
            "shape": list(filters.shape),
            "concentration": concentration(filters),
            "even_share": even_share(filters),
            "peak": peak_shares(filters).nanmean().item(),
            "each": _numbers(centre_shares(filters)),
            "peaks": _numbers(peak_shares(filters)),
        },
        "environment": environment(device),
    }


def _numbers(shares: Tensor) -> list[float | None]:
    """Shares for JSON, which has no NaN."""
    return [None if share != share else share for share in shares.tolist()]
