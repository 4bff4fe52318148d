"""The main job on a small scale: train, guard, attack without and with knowledge, prove, say it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from redoubtable.data import load, read
from redoubtable.evaluation import Evaluation, Settings, certified, environment, evaluate, guarded
from redoubtable.files import make_folder, write_json
from redoubtable.models import create, load_model
from redoubtable.processes import is_first_process
from redoubtable.seeding import seeded
from redoubtable.threat import L0, Linf, ThreatModel
from redoubtable.training import Settings as TrainingSettings
from redoubtable.training import train

SCHEMA = 1
ATTACKS: tuple[tuple[ThreatModel, tuple[str, ...]], ...] = (
    (Linf(0.2), ("fgsm", "pgd:steps=20")),
    (L0(20), ("fgsm", "pgd:steps=30")),  # exchanging pixels takes longer to settle
)
GUARD = ("subsample:rate=0.9", "vote:draws=10", "reject:score=entropy,rule=accuracy,level=0.01")
DETECTOR = (
    "mvm:share=0.5",
    "vote:draws=20,count=labels",
    "reject:score=entropy:votes=20,rule=fpr,level=0.05",
)
"""Of the natural network: sampled feature maps whose labels disagree; the paper has 100 of them."""
DETECTED = 30
"""Images that the detector is attacked on: each of its answers is twenty passes."""
NETWORK = {"width": 16}
NETWORKS = {"natural": ("natural", 25), "subsampled": ("subsampled:rate=uniform", 50)}
"""By folder, the recipe and the epochs of each."""
IMAGES = 200
CURVE = (0.5, 1.0, 1.5)
CERTIFICATE, PIXELS = "ablation:rate=0.9", (0, 1, 3, 6)
"""Of the guard's own masks: an image of one channel has the same masks by value and by pixel."""
CERTIFIED, SAMPLES = 100, (200, 1000)
"""Images, and samples that choose a class and that bound its probability."""
RATE_IMAGES = 50
"""Of how many of them the guard is attacked at other thresholds: their numbers are beside the point
here, and each costs as much as the evaluation."""


@dataclass(frozen=True)
class Demo:
    """What the demo measured.

    Attributes:
        record: what `record.json` holds: the command, the recipes, one record per evaluation.
        images: per evaluation the first images, clean and by attack.
        arrays: per evaluation the answers, distances and suspicion of each image.
        seconds: how long each step took; not part of the record, which a seed determines.
    """

    record: Mapping[str, Any]
    images: tuple[Mapping[str, NDArray[np.float32]], ...]
    arrays: tuple[Mapping[str, NDArray[Any]], ...]
    seconds: Mapping[str, float]


def train_networks(out: Path, *, seed: int = 0, progress: bool = True) -> None:
    """Train the demo's two small networks on the digits, or leave those that the folder has.

    Args:
        out: folder for them; a training that was killed goes on.
        seed: of everything.
        progress: show progress bars on the error stream.

    Raises:
        ValueError: the folder can't be written to, or holds something else or damaged.
    """
    make_folder(out)
    data, validation = read("digits", "train"), read("digits", "validation")
    for name, (recipe, epochs) in NETWORKS.items():
        with seeded("init", seed):
            network = create("small_cnn", **NETWORK)
        settings = TrainingSettings(epochs, batch_size=64, lr=0.2, weight_decay=5e-4, seed=seed)
        folder = out / name
        train(network, data, recipe, settings, validation=validation, out=folder, progress=progress)


def demo(out: Path, *, seed: int = 0, progress: bool = True) -> Demo:
    """Guard the second of the trained networks, attack both, certify the second.

    Every step is kept in `out` when it is finished; a demo that was killed goes on from there and
    gives the same record. Several processes share the work and give the record of one.

    Args:
        out: folder that `train_networks` has filled, for journal and `record.json` too.
        seed: of everything.
        progress: show progress bars on the error stream.

    Raises:
        ValueError: the folder has no networks, can't be written to, or holds something else or
            damaged.
    """
    seconds: dict[str, float] = {}
    natural, subsampled = (load_model(out / name) for name in NETWORKS)
    held_out = load("digits", "validation")
    models: dict[str, nn.Module] = {
        "natural": natural,
        "guard": guarded(subsampled, GUARD, held_out, seed),
    }
    x, y = load("digits", "test", limit=IMAGES)
    evaluations: list[Evaluation] = []
    command = f"redoubt demo --seed {seed}"
    for threat, attacks in ATTACKS:
        for name, model in models.items():
            started = time.perf_counter()
            done = evaluate(
                model,
                x,
                y,
                threat,
                attacks,
                seed=seed,
                settings=replace(Settings(), draws=5, chunk=100),
                held_out=held_out[0],
                curve=CURVE,
                rate_images=RATE_IMAGES,
                out=out / "evaluations" / f"{name}-{threat.name}",
                name=name,
                data="digits, test",
                command=command,
                progress=progress,
            )
            seconds[f"{name} under {threat}"] = time.perf_counter() - started
            evaluations.append(done)
    threat, attacks = ATTACKS[0]
    started = time.perf_counter()
    evaluations.append(
        evaluate(
            guarded(natural, DETECTOR, held_out, seed),
            x[:DETECTED],
            y[:DETECTED],
            threat,
            attacks,
            seed=seed,
            settings=replace(Settings(), draws=1, chunk=DETECTED),
            curve=(),
            check=False,
            out=out / "evaluations" / f"MVM-{threat.name}",
            name="MVM detector",
            data="digits, test",
            command=command,
            progress=progress,
        )
    )
    seconds[f"MVM detector under {threat}"] = time.perf_counter() - started
    started = time.perf_counter()
    proved = certified(
        subsampled,
        x[:CERTIFIED],
        y[:CERTIFIED],
        CERTIFICATE,
        n0=SAMPLES[0],
        n=SAMPLES[1],
        radii=PIXELS,
        seed=seed,
        out=out / "certificate",
        name="subsampled",
        data="digits, test",
        command=command,
        progress=progress,
    )
    seconds["certificate"] = time.perf_counter() - started
    record = {
        "schema": SCHEMA,
        "kind": "demo",
        "command": command,
        "data": "digits (scikit-learn's handwritten digits, 28x28)",
        "guard": list(GUARD),
        "detector": list(DETECTOR),
        "evaluations": [e.record for e in evaluations],
        "certificates": [proved.record],
        "environment": environment(),
    }
    if is_first_process():
        write_json(out / "record.json", record)
    images, arrays = zip(*((e.images, e.arrays) for e in evaluations), strict=True)
    return Demo(record, images, arrays, seconds)
