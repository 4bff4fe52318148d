"""Options that several commands share."""

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

Seed = Annotated[int, typer.Option(help="Names every random draw: same seed, same result.", min=0)]
Root = Annotated[
    Path | None,
    typer.Option(help="Folder of data sets; by default the one REDOUBT_DATA names."),
]
ImageSize = Annotated[
    int | None, typer.Option(help="Side that an image folder's files are resized and cut to.")
]
Channels = Annotated[int | None, typer.Option(help="1 for grey or 3 for colour, of image files.")]
Classes = Annotated[
    str | None,
    typer.Option(help="Only these: names with commas, a file of names, or imagenet-201."),
]
Sizes = Annotated[
    str | None, typer.Option(help="Split anew: train=10854,validation=1206,test=2010.")
]
Draw = Annotated[
    str | None, typer.Option(help="How --sizes draws: stratified, balanced or random.")
]
Damaged = Annotated[str, typer.Option(help="Damaged image files: refuse, skip or unchecked.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch a known data set into --root.")]
Workers = Annotated[int, typer.Option(help="Processes that read image files ahead.", min=0)]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, no table.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")]


def device_of(name: str) -> torch.device:
    """Return the device of a name; "auto" takes a CUDA device where there is one.

    Of several processes on one machine each takes its own.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda":
        name = f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    if name != "cpu" and name.partition(":")[0] != "cuda":
        raise ValueError(f"unknown device {name!r}; write auto, cpu, cuda or cuda:1")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"there is no device {name} here; write --device cpu") from None
    return device


def reading(
    root: Path | None,
    image_size: int | None,
    channels: int | None,
    classes: str | None,
    sizes: str | None,
    draw: str | None,
    damaged: str,
    download: bool,
    workers: int,
) -> dict[str, Any]:
    """Return the arguments of `redoubtable.data.read` that the options of data ask for.

    Raises:
        ValueError: `sizes` is not as in train=100,test=20.
    """
    return {
        "root": root,
        "size": image_size,
        "channels": channels,
        "classes": _names(classes),
        "sizes": None if sizes is None else _read_sizes(sizes),
        "draw": draw,
        "damaged": damaged,
        "download": download,
        "workers": workers,
    }


def _names(text: str | None) -> str | list[str] | None:
    """Names with commas; else the name of a list or a file."""
    return [name.strip() for name in text.split(",")] if text and "," in text else text


def _read_sizes(text: str) -> dict[str, int]:
    pairs = [part.partition("=") for part in text.split(",")]
    if not all(equals and value.strip().isdigit() for _, equals, value in pairs):
        raise ValueError(f"`sizes` must be written as in train=100,test=20, got {text!r}")
    return {name.strip(): int(value) for name, _, value in pairs}


def command_line() -> str:
    """Return the command as it was typed, for records."""
    text = shlex.join(["redoubt", *sys.argv[1:]])
    return text.encode("utf-8", "backslashreplace").decode()  # names of files need not be text


def print_json(value: Any) -> None:
    """Print JSON on standard output."""
    print(json.dumps(value, indent=1, allow_nan=False))  # in ASCII, which any pipe takes
