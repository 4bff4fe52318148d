"""What each of the two processes of test_processes.py does, in the folder that it names."""

import contextlib
import sys
from pathlib import Path

import torch
from torch import nn

from redoubtable.files import write_bytes
from redoubtable.seeding import seeded
from redoubtable.training import Settings
from redoubtable.training.run import Run
from tests.unit.training.parts import Killed, dying, fresh, quiet, state, toy

STEP = Settings(
    epochs=1,
    batch_size=70,
    lr=1.0,
    momentum=0,
    weight_decay=0,
    schedule="constant",
    augment="crop+flip",
)
LONG = Settings(epochs=2, batch_size=24, augment="crop+flip", seed=3, ema=0.9)


def without_batch_statistics():
    with seeded("plain"):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 3)
        )


def plain(settings=STEP):
    """Weights after training without batch statistics."""
    return quiet(without_batch_statistics(), toy(), "natural", settings).model


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    found = {"step": plain(), "epochs": plain(LONG)}
    for recipe in ("trades:steps=1", "fast", "free:replays=2"):
        found[recipe] = quiet(
            fresh(), toy(), recipe, LONG, validation=toy(31, "validation"), out=folder / recipe
        ).model
    again = quiet(
        fresh(), toy(), "fast", LONG, validation=toy(31, "validation"), out=folder / "fast"
    )
    found["again"] = again.model
    # Its attack sees running statistics, each process its own until the end of an epoch.
    found["uncut"] = quiet(fresh(), toy(), "pgd:steps=1", LONG).model
    with contextlib.suppress(Killed):
        quiet(fresh(), toy(), dying(4, "pgd:steps=1"), LONG, out=folder / "cut")
    found["cut"] = quiet(fresh(), toy(), "pgd:steps=1", LONG, out=folder / "cut").model
    refused = ""
    try:
        quiet(fresh(), toy(), "pgd:steps=1", STEP, out=folder / "cut")
    except ValueError as error:
        refused = str(error)
    rank = Run(fresh(), toy(), None, None, LONG).processes.rank
    tensors = {name: state(model) for name, model in found.items()}
    torch.save((tensors, again.rows[-1].validation_accuracy, refused), folder / f"{rank}.pt")
    write_bytes(folder / f"{rank}.done", b"")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
