"""Options that several commands share."""

import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

Seed = Annotated[int, typer.Option(help="Names every random draw: same seed, same result.", min=0)]
Root = Annotated[
    Path | None,
    typer.Option(help="Folder of .npz data sets; by default the one REDOUBT_DATA names."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on standard output, no table.")]
Device = Annotated[str, typer.Option(help="Where to compute: auto, cpu, cuda, cuda:1.")]


def device_of(name: str) -> torch.device:
    """Return the device of a name; "auto" takes a CUDA device where there is one.

    Raises:
        ValueError: there is no such device here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name != "cpu" and name.partition(":")[0] != "cuda":
        raise ValueError(f"unknown device {name!r}; write auto, cpu, cuda or cuda:1")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise ValueError(f"there is no device {name} here; write --device cpu") from None
    return device


def command_line() -> str:
    """Return the command as it was typed, for records."""
    return shlex.join(["redoubt", *sys.argv[1:]])


def print_json(value: Any) -> None:
    """Print JSON on standard output."""
    print(json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False))
