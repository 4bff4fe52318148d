"""How strong the suites are beside AutoAttack as torchattacks has it, with the published steps.

A natural, an adversarially trained and a subsampled network. What both return is looked at again by
the network itself, a random one by as many fresh draws of each image.

    python benchmarks/suites.py --root DATA --out results/suites.json

Needs `pip install -e '.[peers]'`.
"""

import argparse
import shlex
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from redoubtable.data import load
from redoubtable.defenses import Subsample
from redoubtable.evaluation import Settings, environment, evaluate
from redoubtable.files import write_json
from redoubtable.models import load_model
from redoubtable.seeding import seeded
from redoubtable.statistics import mean_share, wilson
from redoubtable.threat import Linf

ZOO = Path(__file__).parent.parent / "zoo"
SUBJECTS: dict[str, tuple[str, float, float]] = {
    "cifar10-resnet20-natural": ("cifar10-jpeg", 1 / 255, 0.0),
    "cifar10-resnet20-pgd": ("cifar10-jpeg", 8 / 255, 0.0),
    "gtsrb-resnet20-subsampled": ("gtsrb", 8 / 255, 0.5),
}
"""Networks: their data, a radius at which some images stand and some fall, and a drop rate."""
LOOKS = 50


def autoattack(net: nn.Module, eps: float, classes: int = 10, draws: int = 1) -> Any:
    """AutoAttack under Linf of torchattacks' parts, with the steps of Croce & Hein 2020.

    torchattacks' own gives all but Square 10 steps. On a random network it is the version "rand":
    APGD with both losses, each gradient averaged over `draws`.
    """
    import torchattacks

    alike: dict[str, Any] = {"eps": eps, "norm": "Linf"}
    if draws > 1:
        losses = ("ce", "dlr")
        parts = [torchattacks.APGD(net, **alike, steps=100, loss=n, eot_iter=draws) for n in losses]
        return torchattacks.MultiAttack(parts)
    return torchattacks.MultiAttack(
        [
            torchattacks.APGD(net, **alike, steps=100),
            torchattacks.APGDT(net, **alike, steps=100, n_classes=classes),
            torchattacks.FAB(net, **alike, steps=100, n_classes=classes, multi_targeted=True),
            torchattacks.Square(net, **alike, n_queries=5000),
        ]
    )


def judged(model: nn.Module, x_adv: Tensor, y: Tensor, looks: int) -> dict[str, Any]:
    """The accuracy of one answer, a mean over fresh draws; the interval is over the images."""
    with torch.no_grad(), seeded("judged"):
        right = torch.stack([model(x_adv).argmax(1) == y for _ in range(looks)]).double()
    share = wilson(int(right.sum()), len(y)) if looks == 1 else mean_share(right.mean(0))
    return vars(share)


def compare(name: str, root: Path, images: int) -> dict[str, Any]:
    """What both leave of the same images."""
    data, eps, rate = SUBJECTS[name]
    x, y = load(data, "test", root=root, limit=images)
    net = load_model(ZOO / name).requires_grad_(False)
    model = nn.Sequential(Subsample(rate), net).eval() if rate else net
    threat, suite = Linf(eps), "random" if rate else "standard"
    theirs = autoattack(model, eps, draws=20 if rate else 1)

    def ours() -> Tensor:
        settings = Settings(draws=20 if rate else 1, chunk=len(x), keep=len(x), precision="bf16")
        e = evaluate(model, x, y, threat, suite, settings=settings, curve=(), check=False)
        return torch.from_numpy(e.adversarial)

    looks = LOOKS if rate else 1
    table: dict[str, Any] = {"threat": str(threat), "suite": suite, "n": len(x), "looks": looks}
    table["drop rate"] = rate
    table["clean"] = judged(model, x, y, looks)
    runs: dict[str, Callable[[], Tensor]] = {"ours": ours, "torchattacks": lambda: theirs(x, y)}
    for who, run in runs.items():
        with seeded("suites", 0):
            started = time.perf_counter()
            x_adv = run().detach()
            seconds = time.perf_counter() - started
        legal = bool(threat.contains(x_adv, x).all())
        table[who] = {"left": judged(model, x_adv, y, looks), "legal": legal, "seconds": seconds}
        print(name, who, table[who], flush=True)
    return table


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--images", type=int, default=100)
    parser.add_argument("--only", action="append", choices=list(SUBJECTS))
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    words = ["DATA" if word == str(options.root) else word for word in sys.argv[1:]]
    record: dict[str, Any] = {
        "kind": "benchmark",
        "command": shlex.join(["python", "benchmarks/suites.py", *words]),
        "seed": 0,
        "view": "adaptive: both know the network and its masks",
        "environment": environment(),
        "networks": {},
    }
    for name in options.only or SUBJECTS:
        record["networks"][name] = compare(name, options.root, options.images)
        write_json(options.out, record)


if __name__ == "__main__":
    main()
