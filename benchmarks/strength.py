"""How strong the attacks are beside those of torchattacks: same network, images and budget.

Robust accuracy under attacks with a radius, success and the median size of the change under those
that look for the smallest one. Differences are those of the same images, with an exact McNemar p.

    python benchmarks/strength.py --root DATA --out results/strength.json

Needs `pip install -e '.[peers]'`.
"""

import argparse
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchattacks
from attacks import ours, results, shown_command
from torch import Tensor, nn

from redoubtable.data import load
from redoubtable.evaluation import environment
from redoubtable.files import write_json
from redoubtable.models import load_model
from redoubtable.seeding import seeded
from redoubtable.statistics import mcnemar
from redoubtable.threat import L0, L2, Linf, ThreatModel

HOME = Path(__file__).parent.parent / "zoo"
SUBJECTS = {
    "cifar10-resnet20-pgd": ("cifar10-jpeg", 8 / 255),
    "cifar10-resnet20-natural": ("cifar10-jpeg", 1 / 255),
    "mnist-feinman": ("mnist", 0.1),
}
"""Networks, their data, and radii at which some images stand and some fall."""


@dataclass(frozen=True)
class Pair:
    """Ours as text, theirs by a network and the radius."""

    threat: Callable[[float], ThreatModel]
    text: str
    theirs: Callable[[nn.Module, float], Any]
    only: tuple[str, ...] = tuple(SUBJECTS)
    next_class: bool = False  # what theirs aims at by default
    images: int | None = None


CIFAR = ("cifar10-resnet20-pgd", "cifar10-resnet20-natural")
PAIRS = {
    "fgsm": Pair(Linf, "fgsm", lambda net, eps: torchattacks.FGSM(net, eps)),
    "bim": Pair(
        Linf,
        "bim:steps=10,step_size={eps}/10",
        lambda net, eps: torchattacks.BIM(net, eps, eps / 10, 10),
    ),
    "pgd": Pair(
        Linf,
        "pgd:steps=40,step_size={eps}/8",
        lambda net, eps: torchattacks.PGD(net, eps, eps / 8, 40),
    ),
    "apgd": Pair(Linf, "apgd:steps=50", lambda net, eps: torchattacks.APGD(net, "Linf", eps, 50)),
    "apgd_targeted": Pair(
        Linf,
        "apgd_targeted:steps=50",
        lambda net, eps: torchattacks.APGDT(net, "Linf", eps, 50, n_classes=10),
    ),
    "square": Pair(
        Linf,
        "square:queries=1000",
        lambda net, eps: torchattacks.Square(net, "Linf", eps, 1000),
    ),
    "carlini_wagner": Pair(
        lambda eps: L2(torch.inf),
        "carlini_wagner:const=10,steps=100",
        lambda net, eps: torchattacks.CW(net, c=10, kappa=0, steps=100, lr=0.01),
    ),
    "deepfool": Pair(
        lambda eps: L2(torch.inf),
        "deepfool:steps=50",
        lambda net, eps: torchattacks.DeepFool(net, steps=50, overshoot=0.02),
    ),
    # Theirs rounds a tenth of 784 values up to 40 pairs, ours would round down to 39.
    "jsma": Pair(
        lambda eps: L0(784.0),
        "jsma:gamma=0.1025,theta=1",
        lambda net, eps: torchattacks.JSMA(net, theta=1.0, gamma=0.1),
        ("mnist-feinman",),
        next_class=True,
        images=200,
    ),
    "one_pixel": Pair(
        lambda eps: L0(1.0),
        "one_pixel:population=400,steps=10",
        lambda net, eps: torchattacks.OnePixel(net, pixels=1, steps=10, popsize=400),
        CIFAR,
        images=50,
    ),
}


def compare(
    net: nn.Module, x: Tensor, y: Tensor, pair: Pair, eps: float, seed: int
) -> dict[str, Any]:
    """What both find on the same images."""
    threat = pair.threat(eps)
    x, y = x[: pair.images], y[: pair.images]
    aims = {"targets": (y + 1) % 10} if pair.next_class else {}
    contenders = {
        "ours": ours(net, x, y, threat, pair.text.format(eps=eps), **aims),
        "torchattacks": lambda: pair.theirs(net, eps)(x, y),
    }
    table: dict[str, Any] = {"threat": str(threat), "attack": pair.text.format(eps=eps)}
    stands, sizes = {}, {}
    for name, run in contenders.items():
        with seeded("strength", seed):
            started = time.perf_counter()
            x_adv = run().detach()
            seconds = time.perf_counter() - started
        table[name] = {"seconds": seconds, **results(net, x, y, threat, x_adv)}
        with torch.no_grad():
            stands[name] = (net(x_adv).argmax(1) == y).numpy()
        sizes[name] = threat.distance(x, x_adv).numpy()
    # The median of each one's own successes rises with every hard image that the other leaves out,
    # and images that are wrong by themselves need no change at all.
    with torch.no_grad():
        right = (net(x).argmax(1) == y).numpy()
    both = right & ~(stands["ours"] | stands["torchattacks"])
    table["median_distance_where_both_succeed"] = {
        name: float(np.median(size[both])) if both.any() else None for name, size in sizes.items()
    }
    table["p"] = mcnemar(stands["ours"], stands["torchattacks"])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--images", type=int, default=200)
    parser.add_argument("--only", action="append", choices=list(PAIRS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    record: dict[str, Any] = {
        "command": shown_command("strength.py"),
        "seed": 0,
        "n": options.images,
        "view": "white box or scores; no defense, so static is adaptive",
        "environment": environment(),
        "networks": {},
    }
    for name, (data, eps) in SUBJECTS.items():
        x, y = load(data, "test", root=options.root, limit=options.images)
        net, tables = load_model(HOME / name).requires_grad_(False), {}
        for attack in options.only or PAIRS:
            if name not in PAIRS[attack].only:
                continue
            tables[attack] = compare(net, x, y, PAIRS[attack], eps, 0)
            values = {
                k: tables[attack][k]["robust_accuracy"]["value"] for k in ("ours", "torchattacks")
            }
            print(name, attack, values, flush=True)
            record["networks"][name] = tables
            write_json(options.out, record)


if __name__ == "__main__":
    main()
