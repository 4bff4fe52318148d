"""What each of the two processes of test_processes.py does, in the folder that it names."""

import contextlib
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from redoubtable.files import locked, write_bytes
from redoubtable.registry import Registry
from redoubtable.seeding import seeded
from redoubtable.training import Recipe, Settings
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

# The attack of PGD sees running statistics, each process its own until the end of an epoch; and
# each has its own perturbation of Free. Killed in the second epoch.
CUT = [("pgd:steps=1", 4), ("free:replays=2", 8)]


def without_batch_statistics():
    with seeded("plain"):
        return nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(3), nn.Flatten(), nn.Linear(36, 3)
        )


def plain(settings=STEP):
    """What training without batch statistics gives."""
    return quiet(without_batch_statistics(), toy(), "natural", settings)


def first_draws():
    """What a recipe draws in each step."""
    drawn = []

    def loss(model, x, y):
        drawn.append(torch.rand(()).item())
        return F.cross_entropy(model(x), y)

    own = Registry("recipe")
    own.register("drawing")(lambda: Recipe(loss))
    quiet(fresh(), toy(), own.bind("drawing"), LONG)
    return drawn


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    epochs = plain(LONG)
    found = {"step": plain().model, "epochs": epochs.model}
    for recipe in ("trades:steps=1", "fast", "free:replays=2"):
        found[recipe] = quiet(
            fresh(), toy(), recipe, LONG, validation=toy(31, "validation"), out=folder / recipe
        ).model
    again = quiet(
        fresh(), toy(), "fast", LONG, validation=toy(31, "validation"), out=folder / "fast"
    )
    found["again"] = again.model
    for recipe, steps in CUT:
        found[f"{recipe} uncut"] = quiet(fresh(), toy(), recipe, LONG).model
        with contextlib.suppress(Killed):
            quiet(fresh(), toy(), dying(steps, recipe), LONG, out=folder / "cut" / recipe)
        found[f"{recipe} cut"] = quiet(
            fresh(), toy(), recipe, LONG, out=folder / "cut" / recipe
        ).model
    refused = ""
    try:
        quiet(fresh(), toy(), "fast", STEP, out=folder / "fast")
    except ValueError as error:
        refused = str(error)
    rank = Run(fresh(), toy(), None, None, LONG).processes.rank
    in_use = ""
    with locked(folder / "fast", "storing") if rank == 0 else contextlib.nullcontext():
        try:
            quiet(fresh(), toy(), "fast", LONG, out=folder / "fast")
        except ValueError as error:
            in_use = str(error)
    tensors = {name: state(model) for name, model in found.items()}
    about = {
        "accuracy": again.rows[-1].validation_accuracy,
        "losses": [row.loss for row in epochs.rows],
        "draws": first_draws(),
        "refused": refused,
        "in use": in_use,
    }
    torch.save((tensors, about), folder / f"{rank}.pt")
    write_bytes(folder / f"{rank}.done", b"")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
