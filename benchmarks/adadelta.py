"""What Adadelta's epsilon does to the CIFAR-10 network of Feinman et al., which has a penalty.

Adadelta's first steps are as long as the root of its epsilon. Trains the preset for one epoch of a
part of the images with each value, from the same weights and batches.

    python benchmarks/adadelta.py --root DATA --out results/adadelta_epsilon.json
"""

import argparse
import tempfile
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from attacks import shown_command

from redoubtable.data import ImageSet, read
from redoubtable.evaluation import environment
from redoubtable.files import write_json
from redoubtable.models import open_model, weight_penalty
from redoubtable.seeding import seeded
from redoubtable.statistics import wilson
from redoubtable.training import PRESETS, optimizers, train

VALUES = (1e-6, 1e-7, 1e-8)  # torch's default, Keras 2's, Keras 1's


def trained(images: ImageSet, held_out: ImageSet, epsilon: float, seed: int) -> dict[str, Any]:
    """Return what an epoch makes of the network."""
    preset = PRESETS["feinman-cifar10"].obj()
    settings = replace(preset.settings, epochs=1, precision="bf16", seed=seed)
    with seeded("init", seed):
        network = open_model(preset.model, classes=10, channels=3)
    before = weight_penalty(network).item()
    optimizers._EPS = epsilon
    with tempfile.TemporaryDirectory() as folder:
        network = train(network, images, preset.recipe, settings, out=Path(folder)).model.eval()
    x, y = held_out.floats(1)
    with torch.no_grad():
        right = sum(
            int((network(a).argmax(1) == b).sum())
            for a, b in zip(torch.split(x, 250), torch.split(y, 250), strict=True)
        )
    return {
        "epsilon": epsilon,
        "accuracy": asdict(wilson(right, len(y))),
        "penalty": {"before": before, "after": weight_penalty(network).item()},
    }


def main() -> None:
    """Parse, train, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--data", default="cifar10-jpeg")
    parser.add_argument("--images", type=int, default=45_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    images = read(given.data, "train", root=given.root, limit=given.images)
    held_out = read(given.data, "validation", root=given.root, limit=2000)
    found = [trained(images, held_out, value, given.seed) for value in VALUES]
    record = {
        "command": shown_command("adadelta.py"),
        "data": given.data,
        "images": given.images,
        "seed": given.seed,
        "precision": "bf16",
        "environment": environment(),
        "rows": found,
    }
    write_json(given.out, record)


if __name__ == "__main__":
    main()
