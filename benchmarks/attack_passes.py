"""How fast an attack step is, and a whole attack, beside plain PyTorch and torchattacks.

Paired (see timing.py); reported are the medians and the median of the ratios round by round.

    redoubt train --out MODEL --data cifar10 --root DATA --model resnet20 --precision bf16 \
        --augment crop+flip --epochs 15
    python benchmarks/attack_passes.py MODEL --root DATA --out results/attack_passes.json

Needs `pip install -e '.[peers]'`.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import torchattacks
from timing import compare, rounds
from torch import nn

from redoubtable.attacks import pgd
from redoubtable.data import load
from redoubtable.evaluation import environment
from redoubtable.evaluation.passes import counted
from redoubtable.files import write_json
from redoubtable.gradients import fast_copy, input_gradient
from redoubtable.losses import aim, cross_entropy
from redoubtable.models import load_model, read_card
from redoubtable.seeding import seeded
from redoubtable.statistics import wilson
from redoubtable.threat import Linf

EPS, STEP, STEPS = 8 / 255, 2 / 255, 20


def plain_pass(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    x = x.clone().requires_grad_()
    torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)


def one_pass(model: nn.Module, x: torch.Tensor, y: torch.Tensor, repeats: int) -> dict[str, Any]:
    objective = aim(cross_entropy, y, None)
    copies = {p: fast_copy(model, x, p) for p in ("fp32", "bf16")}
    contenders: dict[str, Callable[[], Any]] = {"plain": lambda: plain_pass(model, x, y)}
    for name, copy in copies.items():
        contenders[name] = lambda copy=copy: input_gradient(copy, x, objective)
    return compare(rounds(contenders, repeats), len(x), "plain")


def whole_attack(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, repeats: int
) -> dict[str, Any]:
    """PGD-20 of torchattacks and ours, one batch, same eps, step and steps."""
    peer = torchattacks.PGD(model, eps=EPS, alpha=STEP, steps=STEPS, random_start=True)
    found: dict[str, torch.Tensor] = {}

    def ours(precision: str) -> None:
        copy = fast_copy(model, x, precision)  # the copy's making counts
        found[precision] = pgd(copy, x, y, Linf(EPS), steps=STEPS, step_size=STEP)

    def theirs() -> None:
        found["torchattacks"] = peer(x, y)

    contenders = {
        "torchattacks": theirs,
        "fp32": lambda: ours("fp32"),
        "bf16": lambda: ours("bf16"),
    }
    result = compare(rounds(contenders, repeats), len(x), "torchattacks")
    threat = Linf(EPS)
    for name, x_adv in found.items():
        assert bool(threat.contains(x_adv, x).all()), name
        with torch.no_grad():
            right = (model(x_adv).argmax(1) == y).sum().item()
        result[name]["robust_accuracy"] = vars(wilson(right, len(x)))
    for precision in ("fp32", "bf16"):
        copy = fast_copy(model, x, precision)
        with counted(copy, model) as passes, seeded("round", repeats):
            pgd(copy, x, y, threat, steps=STEPS, step_size=STEP)
        result[precision]["passes"] = {"forward": passes.forward, "backward": passes.backward}
    result["torchattacks"]["passes"] = {"forward": STEPS * len(x), "backward": STEPS * len(x)}
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--images", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path("results/attack_passes.json"))
    options = parser.parse_args()
    model = load_model(options.model).requires_grad_(False)
    x, y = load(options.data, "test", root=options.root, limit=options.images)
    with torch.no_grad():
        clean = (model(x).argmax(1) == y).sum().item()
    card = read_card(options.model)
    record = {
        "command": "python benchmarks/attack_passes.py MODEL --root DATA",
        "model": {"architecture": card.architecture, "recipe": card.recipe, "sha256": card.sha256},
        "data": {"name": options.data, "n": len(x)},
        "clean_accuracy": vars(wilson(clean, len(x))),
        "pass": {"batch": 256, **one_pass(model, x[:256], y[:256], 3 * options.repeats)},
        "pgd": {
            "threat": "Linf:8/255",
            "steps": STEPS,
            "step_size": "2/255",
            "view": "white box; no defense, so static is adaptive",
            "restarts": 1,
            **whole_attack(model, x, y, options.repeats),
        },
        "seed": "seeded('round', number), numbers from 0",
        "environment": environment(),
    }
    write_json(options.out, record)
    for part, key in (("pass", "times_plain"), ("pgd", "times_torchattacks")):
        for name, row in record[part].items():
            if isinstance(row, dict):
                robust = row.get("robust_accuracy", {}).get("value", "")
                print(f"{part} {name}: {row['images_per_second']:.0f}/s, {row[key]:.2f}x {robust}")


if __name__ == "__main__":
    main()
