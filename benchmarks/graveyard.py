"""What the default suite leaves of defenses that are known to be broken, and of what is not.

A natural network on CIFAR-10 behind each of them, at a radius where the bare network keeps nothing,
beside a constant model and an adversarially trained network. The record is written anew after each
model.

    python -m benchmarks.graveyard --root DATA --out results/graveyard.json
"""

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from redoubtable.data import load
from redoubtable.defenses import (
    JPEG,
    SAP,
    BitDepth,
    GaussianNoise,
    MedianFilter,
    RandomResizePad,
    Temperature,
    insert_units,
)
from redoubtable.evaluation import Evaluation, Settings, environment, evaluate
from redoubtable.files import write_json
from redoubtable.models import load_model
from redoubtable.threat import parse_threat
from tests.graveyard.traps import KillsGradients, LooksAtBrightness, RoundsUnstated

HOME = Path(__file__).parent.parent / "zoo"
DATA = "cifar10-jpeg"


class Constant(nn.Module):
    """One class for every image."""

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 10) logits that do not depend on the images."""
        return torch.eye(10)[3].to(x) + 0 * x.flatten(1).sum(1, keepdim=True)


def subjects(net: nn.Module, trained: nn.Module, clean: Tensor) -> dict[str, nn.Module]:
    """Return what is measured.

    Args:
        net: a natural network.
        trained: an adversarially trained one.
        clean: (N, C, H, W) images that are not attacked, for the brightness that is accepted.
    """
    means = clean.flatten(1).mean(1)
    low, high = means.quantile(torch.tensor([0.05, 0.95])).tolist()
    behind: Callable[[nn.Module], nn.Module] = lambda part: nn.Sequential(part, net)  # noqa: E731
    return {
        "bare": net,
        "bit depth, 3 bits": behind(BitDepth(3)),
        "JPEG, quality 75": behind(JPEG(75)),
        "median filter, 3 x 3": behind(MedianFilter(3)),
        "temperature 0.001": Temperature(net, temperature=1e-3),
        "temperature 1000": Temperature(net, temperature=1e3),
        "Gaussian noise, sigma 0.05": behind(GaussianNoise(0.05)),
        "random resize and pad": behind(RandomResizePad()),
        "killed gradients, stated as true": behind(KillsGradients(32)),
        "killed gradients, unstated": behind(RoundsUnstated(32)),
        "brightness detector": LooksAtBrightness(net, low, high),
        # Values by themselves: with replacement a pass takes twenty times as long.
        "SAP 100%": insert_units(net, SAP(1.0, law="bernoulli"), recompute=True),
        "constant (must stand)": Constant(),
        "adversarially trained (must stand)": trained,
    }


def out_of_reach(guard: LooksAtBrightness, x: Tensor, radius: float) -> int:
    """How many images no change of every value by `radius` makes dark or bright enough."""
    dark, bright = ((x + step).clamp(0, 1).flatten(1).mean(1) for step in (-radius, radius))
    return int(((dark > guard.high) | (bright < guard.low)).sum())


def row(e: Evaluation, seconds: float) -> dict[str, Any]:
    """Return what a table shows of an evaluation."""
    record = e.record
    views = {v: record[v]["accuracy"]["one_shot"] for v in ("clean", "static", "adaptive")}
    passes = sum(sum(r["passes"].values()) for r in record["rows"])
    texts = [r["attack"] for r in record["rows"] if r["view"] == "adaptive"]
    return {
        **views,
        "robust": record["robust"]["accuracy"]["one_shot"],
        "under": {text: e.under[text] for text in texts},
        "worst_by": record["robust"]["worst_by"],
        "failed": [f["check"] for f in record["findings"] if f["verdict"] == "fail"],
        "draws": record["settings"]["draws"],
        "facts": record["model"]["facts"],
        "passes": passes,
        "seconds": seconds,
    }  # fmt: skip


def main() -> None:
    """Measure and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--threat", default="Linf:8/255")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", action="append", help="the start of a name")
    parser.add_argument("--no-check", action="store_true", help="leave the checks out")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    threat = parse_threat(options.threat)
    x, y = load(DATA, "test", root=options.root, limit=options.images)
    clean, _ = load(DATA, "train", root=options.root, limit=1000)
    nets = [load_model(HOME / f"cifar10-resnet20-{name}") for name in ("natural", "pgd")]
    rows: dict[str, Any] = {}
    arguments = ["DATA" if word == str(options.root) else word for word in sys.argv[1:]]
    record = {
        "command": f"python -m benchmarks.graveyard {shlex.join(arguments)}",
        "suite": "adaptive",
        "view": "static attacks saw the bare network, adaptive ones all of the model",
        "threat": str(threat),
        "data": f"{DATA}, test",
        "n": len(x),
        "seed": options.seed,
        "environment": environment(options.device),
        "rows": rows,
    }
    x, y = x.to(options.device), y.to(options.device)
    for name, model in subjects(*nets, clean).items():
        if options.only and not any(name.startswith(o) for o in options.only):
            continue
        started = time.perf_counter()
        e = evaluate(
            model.eval().to(options.device), x, y, threat, curve=(), seed=options.seed,
            check=not options.no_check, settings=Settings(draws=10), name=name,
        )  # fmt: skip
        rows[name] = row(e, time.perf_counter() - started)
        if isinstance(model, LooksAtBrightness):
            rows[name]["out_of_reach"] = out_of_reach(model, x, float(threat.eps))
        left = {v: f"{rows[name][v]['value']:.1%}" for v in ("clean", "static", "adaptive")}
        print(f"{name}: {left}, failed: {rows[name]['failed']}", flush=True)
        write_json(options.out, record)


if __name__ == "__main__":
    main()
