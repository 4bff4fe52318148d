"""Certified accuracy against radius: the record of a certificate, chunk by chunk."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from redoubtable.certification import (
    ABSTAIN,
    CERTIFICATES,
    certify,
    guarantee,
    largest_radius,
)
from redoubtable.evaluation.border import classes_of, device_of
from redoubtable.evaluation.chunks import Chunks, outline
from redoubtable.evaluation.environment import environment, hardware
from redoubtable.evaluation.progress import ticking
from redoubtable.evaluation.runner import running
from redoubtable.evaluation.summary import describe, save
from redoubtable.files import digest_model, digest_package
from redoubtable.parts import in_eval_mode
from redoubtable.statistics import wilson
from redoubtable.types import Labels, LazyImages, check_lazy

RADII = 5
"""How many radii the table has by default, from 0 to the largest that the samples could certify."""
CURVE = 101
"""How many radii the curve has at most, from 0 to that largest."""


@dataclass(frozen=True)
class Certified:
    """What was certified.

    Attributes:
        record: ready for JSON; the schema is in docs/record.md.
        arrays: per example: class, radius, both bounds, hits.
    """

    record: Mapping[str, Any]
    arrays: Mapping[str, NDArray[Any]]

    def accuracy(self, radius: float) -> float:
        """Return the share of images certified as their class at a radius or beyond."""
        right = self.arrays["classes"] == self.arrays["y"]
        return float((right & (self.arrays["radii"] >= radius)).mean())


def certified(
    model: nn.Module,
    x: LazyImages,
    y: Labels,
    certificate: str = "smoothing",
    *,
    n0: int = 100,
    n: int = 1000,
    alpha: float = 0.001,
    runner_up: bool = False,
    radii: Sequence[float] | None = None,
    seed: int = 0,
    chunk: int = 25,
    batch_size: int = 512,
    out: Path | str | None = None,
    name: str = "model",
    data: str = "unnamed",
    command: str | None = None,
    progress: bool = False,
) -> Certified:
    """Certify a model on images, and tell its certified accuracy against the radius.

    Args:
        model: maps (N, C, H, W) in [0, 1] to (N, K) logits.
        x: clean images, a tensor or a view that reads them.
        y: (N,) labels.
        certificate: a registered one with its arguments, as in "smoothing:noise=0.25".
        n0: samples that choose the class.
        n: samples that bound its probability.
        alpha: probability, at most, that one certificate is wrong.
        runner_up: bound every other class too, see `certify`.
        radii: of the table; None for up to five, to the largest that `n` can certify. The curve of
            the record has that whole range in any case.
        seed: of all samples.
        chunk: images that one piece of work covers; it does not change results.
        batch_size: copies that are drawn together; another number draws other samples.
        out: a folder for `record.json`, `examples.npz` and the journal; given again, it resumes.
        name: what the model is called in the record.
        data: what the images are called in the record.
        command: what a stranger would type to get the record.
        progress: show a progress bar.

    Raises:
        TypeError: images or labels have the wrong type.
        ValueError: the certificate is unknown, an argument is out of its range, or nothing above
            radius 0 can be certified.
    """
    bound = CERTIFICATES.bind(certificate)
    randomisation = bound.entry.obj(**bound.arguments)
    check_lazy(x)
    whole = bool(bound.entry.facts.get("whole"))
    largest = largest_radius(randomisation, x.shape[1:], n, alpha)
    table = _grid(largest, RADII, whole) if radii is None else _checked(radii)
    device, y = device_of(model, outline(x)), y.detach().cpu()
    about: dict[str, Any] = {
        "n0": n0,
        "n": n,
        "alpha": alpha,
        "runner_up": runner_up,
        "seed": seed,
        "batch_size": batch_size,
    }
    folder = Path(out) if out else None
    with (
        in_eval_mode(model),
        running(folder, device) as runner,
        ticking(f"certifying {name} by {bound.text}", progress and runner.first) as ticker,
    ):
        classes = classes_of(model, x, y)
        pieces, digest = Chunks(x, y, chunk), digest_model(model)
        ticker.expect(len(pieces.starts))
        key = {
            "certificate": bound.text,
            "model": digest,
            "code": digest_package(("cli", "reports", "training", "papers", "demo")),
            "device": hardware(device),
            **about,
        }

        def piece(number: int) -> Mapping[str, NDArray[Any]]:
            first = pieces.starts[number]

            def work() -> dict[str, NDArray[Any]]:
                images = pieces.chunk(number)[0]
                return vars(certify(model, images, randomisation, first=first, **about))

            part = {"data": pieces.digests[number], "start": first}
            cell = runner.journal.cell(key | part, work)
            ticker.tick(str(number))
            return cell

        cells = runner.finish(*(partial(piece, k) for k in range(len(pieces.starts))))
        arrays = {k: np.concatenate([c[k] for c in cells]) for k in cells[0]} | {"y": y.numpy()}
        record = {
            "schema": 1,
            "kind": "certificate",
            "name": name,
            "command": command,
            "certificate": bound.text,
            "norm": str(bound.entry.facts["norm"]),
            "guarantee": guarantee(model, randomisation),
            "settings": about,
            "model": describe(model, digest, classes),
            "data": {"name": data, "n": len(x), "shape": list(x.shape[1:])},
            "largest_radius": largest,
            **_numbers(arrays, table, _grid(largest, CURVE, whole)),
            "environment": environment(device),
        }
        if folder and runner.first:
            save(folder, record, arrays, {})
    return Certified(record, arrays)


def _grid(largest: float, points: int, whole: bool) -> list[float]:
    """At most so many radii from 0 to the largest, as evenly spaced as they can be."""
    even = [largest * (k / (points - 1)) for k in range(points)]
    return sorted({float(round(r)) for r in even}) if whole else even


def _checked(radii: Sequence[float]) -> list[float]:
    """Radii that are asked for, ascending."""
    if not radii or any(not 0 <= r < float("inf") for r in radii):
        raise ValueError(f"`radii` must be finite and not negative, got {list(radii)}")
    return sorted(radii)


def _numbers(
    arrays: Mapping[str, NDArray[Any]], table: Sequence[float], curve: Sequence[float]
) -> dict[str, Any]:
    """Certified accuracy against the radius, abstentions, and the mean radius."""
    classes, radii, n = arrays["classes"], arrays["radii"], len(arrays["y"])
    right = classes == arrays["y"]

    def points(grid: Sequence[float]) -> list[dict[str, Any]]:
        hits = [(r, int((right & (radii >= r)).sum())) for r in grid]
        return [{"radius": r, "accuracy": asdict(wilson(h, n))} for r, h in hits]

    return {
        "certified": points(table),
        "curve": points(curve),
        "abstained": asdict(wilson(int((classes == ABSTAIN).sum()), n)),
        "mean_radius": float(np.where(right, radii, 0.0).mean()),
    }
