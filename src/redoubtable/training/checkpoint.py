"""Checkpoints that know which run they belong to."""

import io
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from redoubtable.files import read_sealed, write_bytes, write_sealed

CHECKPOINT, LOG = "checkpoint.bin", "train.jsonl"


@dataclass(frozen=True)
class Epoch:
    """One line of the training log.

    Attributes:
        epoch: counted from 1.
        loss: mean of the recipe's loss over the epoch's images, while the weights moved.
        lr: learning rate of the last step.
        seconds: that the epoch took, without the validation.
        validation_accuracy: share of validation images, as they are and without the recipe's
            changes, whose class is right after the epoch; None without validation data.
    """

    epoch: int
    loss: float
    lr: float
    seconds: float
    validation_accuracy: float | None


@dataclass(frozen=True)
class Checkpoint:
    """The state after an epoch, from which training goes on bit for bit.

    Attributes:
        identity: what makes this run this run, by name.
        rows: the log so far; its length is the number of epochs done.
        model: the model's state dict.
        optimizer: the optimizer's state dict.
    """

    identity: Mapping[str, str]
    rows: tuple[Epoch, ...]
    model: Mapping[str, Any]
    optimizer: Mapping[str, Any]


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint and then the log that it implies, each whole or not at all.

    The log is written anew from the checkpoint's rows, so no epoch can stand in it twice.
    """
    buffer = io.BytesIO()
    content = {
        "identity": dict(checkpoint.identity),
        "rows": [asdict(row) for row in checkpoint.rows],
        "model": dict(checkpoint.model),
        "optimizer": dict(checkpoint.optimizer),
    }
    torch.save(content, buffer)
    write_sealed(folder / CHECKPOINT, buffer.getvalue())
    write_log(folder, checkpoint.rows)


def write_log(folder: Path, rows: tuple[Epoch, ...]) -> None:
    """Write the log, one line of JSON per epoch."""
    lines = "".join(json.dumps(asdict(row), allow_nan=False) + "\n" for row in rows)
    write_bytes(folder / LOG, lines.encode())


def read_checkpoint(folder: Path, identity: Mapping[str, str]) -> Checkpoint | None:
    """Read the checkpoint of a run; None if the folder has none yet.

    Raises:
        ValueError: the file is damaged, or it belongs to a run with another identity.
    """
    path = folder / CHECKPOINT
    if not path.exists():
        return None
    content = read_sealed(path, "training checkpoint")
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        rows = tuple(Epoch(**row) for row in found["rows"])
        checkpoint = Checkpoint(found["identity"], rows, found["model"], found["optimizer"])
    except Exception as error:  # whatever torch.load meets in a file that is not ours
        reason = str(error).split("\n", 1)[0]
        raise ValueError(
            f"the training checkpoint at {path} can't be read ({reason}); delete it to start again"
        ) from None
    there = checkpoint.identity
    for key in sorted({*identity, *there}):
        if identity.get(key) != there.get(key):
            raise ValueError(
                f"{folder} holds another training run: its {key} is {there.get(key)}, not "
                f"{identity.get(key)}; choose another folder, or delete {path} to start again"
            )
    return checkpoint
