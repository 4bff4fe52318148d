"""Checkpoints that know which run they belong to."""

import io
import json
import os
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from redoubtable.files import read_sealed, write_bytes, write_sealed

CHECKPOINT, PREVIOUS, LOG = "checkpoint.bin", "checkpoint.previous.bin", "train.jsonl"


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
class Begun:
    """How far an epoch is that has begun.

    Attributes:
        step: batches done in it.
        total: (), the sum of the loss over this process's images.
        seconds: that they took.
    """

    step: int
    total: Tensor
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """The state of a run, from which training goes on bit for bit.

    Attributes:
        identity: what makes this run this run, by name.
        rows: the log so far; its length is the number of epochs done.
        begun: how far the next epoch is, or None if it has not begun.
        tensors: all that training changes, by its place in `Run`: state dicts of the model, the
            optimizer and the like.
        code: digests of the code that the last epoch was trained with, by what it is the code of.
        changes: where code changed between two calls, a sentence each.
    """

    identity: Mapping[str, str]
    rows: tuple[Epoch, ...]
    begun: Begun | None
    tensors: Mapping[str, Any]
    code: Mapping[str, str] = field(default_factory=dict)
    changes: tuple[str, ...] = ()

    @property
    def done(self) -> str:
        """How far it is, in words."""
        steps = "" if self.begun is None else f" and {self.begun.step} steps"
        return f"after epoch {len(self.rows)}{steps}"


def write_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Write the checkpoint and then the log that it implies, each whole or not at all.

    The one before is kept beside it. Where nothing can be written, as on a full disk, training need
    not end: the last one stays, and a warning says so. The log is written anew from the
    checkpoint's rows, so no epoch can stand in it twice.
    """
    buffer = io.BytesIO()
    begun = checkpoint.begun
    content = {
        "identity": dict(checkpoint.identity),
        "rows": [asdict(row) for row in checkpoint.rows],
        "begun": None if begun is None else (begun.step, begun.total.cpu(), begun.seconds),
        "tensors": dict(checkpoint.tensors),
        "code": dict(checkpoint.code),
        "changes": list(checkpoint.changes),
    }
    torch.save(content, buffer)
    path, previous, new = (folder / n for n in (CHECKPOINT, PREVIOUS, f".{CHECKPOINT}.new"))
    try:
        write_sealed(new, buffer.getvalue())
        if path.exists():
            os.replace(path, previous)
        os.replace(new, path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        warnings.warn(
            f"no checkpoint after epoch {len(checkpoint.rows)} could be written to {folder} "
            f"({reason}); training goes on, the one before stays, make room",
            stacklevel=2,
        )
        return
    try:
        write_log(folder, checkpoint.rows)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        warnings.warn(
            f"the log {folder / LOG} could not be written ({reason}); the checkpoint was, and "
            "the next one brings the log up to it; make room",
            stacklevel=2,
        )


def write_log(folder: Path, rows: tuple[Epoch, ...]) -> None:
    """Write the log, one line of JSON per epoch."""
    lines = "".join(json.dumps(asdict(row), allow_nan=False) + "\n" for row in rows)
    write_bytes(folder / LOG, lines.encode())


def read_checkpoint(folder: Path, identity: Mapping[str, str]) -> Checkpoint | None:
    """Read the last whole checkpoint of a run; None if the folder has none yet.

    Where the last one is damaged, or a kill came while it was put in place, the one before it is
    taken and put in its stead, and a warning says so.

    Raises:
        ValueError: both are damaged, or the last belongs to a run with another identity.
    """
    path, previous = folder / CHECKPOINT, folder / PREVIOUS
    if not path.exists() and not previous.exists():
        return None
    try:
        checkpoint = _read(path)
    except ValueError as error:
        if not previous.exists():
            raise
        try:
            checkpoint = _read(previous)
        except ValueError:
            raise error from None
        os.replace(previous, path)
        warnings.warn(
            f"{error}; the one before it is used instead, {checkpoint.done}", stacklevel=2
        )
    there = checkpoint.identity
    for key in sorted({*identity, *there}):
        if identity.get(key) != there.get(key):
            raise ValueError(
                f"{folder} holds another training run: its {key} is {there.get(key)}, not "
                f"{identity.get(key)}; choose another folder, or delete {path} to start again"
            )
    return checkpoint


def note_changed_code(folder: Path, checkpoint: Checkpoint, code: Mapping[str, str]) -> Checkpoint:
    """Return the checkpoint with a note of the code that is another than when it was written.

    It is no refusal: a digest can't tell a comment from a formula, and days of training should not
    end with either. But nothing says that the result is that of one code, so a warning does not
    let it pass, and the model's card will have the note.
    """
    changed = [what for what in code if checkpoint.code.get(what, code[what]) != code[what]]
    if not changed:
        return checkpoint
    note = f"the code of the {' and of the '.join(changed)} was changed {checkpoint.done}"
    warnings.warn(
        f"{note} of the training in {folder}; it goes on with the new code and its card will say "
        "so; delete the checkpoints there to start again",
        stacklevel=2,
    )
    return replace(checkpoint, changes=(*checkpoint.changes, note))


def _read(path: Path) -> Checkpoint:
    content = read_sealed(path, "training checkpoint")
    try:
        found = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        rows = tuple(Epoch(**row) for row in found["rows"])
        begun = None if found["begun"] is None else Begun(*found["begun"])
        code, changes = found.get("code", {}), tuple(found.get("changes", ()))
        return Checkpoint(found["identity"], rows, begun, found["tensors"], code, changes)
    except Exception as error:  # whatever torch.load meets in a file that is not ours
        reason = str(error).split("\n", 1)[0]
        raise ValueError(
            f"the training checkpoint at {path} can't be read ({reason}); delete it to start again"
        ) from None
