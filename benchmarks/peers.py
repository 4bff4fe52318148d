"""PGD against PGD: robust accuracy of ours, torchattacks' and foolbox's at the same budget.

Radii are chosen so that a naturally trained network is partly robust: at 0% all attacks look
alike.

    redoubt train --out MODEL
    python benchmarks/peers.py MODEL --linf 0.05 --l2 0.8 --out results/peers_digits.json

Needs `pip install -e '.[peers]'`.
"""

import argparse
from pathlib import Path
from typing import Any

import foolbox
import torch
import torchattacks
from torch import nn

from redoubtable.attacks import pgd
from redoubtable.data import load
from redoubtable.evaluation import environment
from redoubtable.files import write_json
from redoubtable.gradients import fast_copy
from redoubtable.models import load_model, read_card
from redoubtable.seeding import seeded
from redoubtable.statistics import mcnemar, wilson
from redoubtable.threat import L2, Linf, ThreatModel

STEPS = 40


def ours(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, threat: ThreatModel, step: float
) -> Any:
    return pgd(fast_copy(model, x), x, y, threat, steps=STEPS, step_size=step)


def theirs(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, threat: ThreatModel, step: float
) -> Any:
    if isinstance(threat, Linf):
        attack = torchattacks.PGD(model, eps=threat.eps, alpha=step, steps=STEPS)
    else:
        attack = torchattacks.PGDL2(model, eps=threat.eps, alpha=step, steps=STEPS)
    return attack(x, y)


def foolboxes(
    model: nn.Module, x: torch.Tensor, y: torch.Tensor, threat: ThreatModel, step: float
) -> Any:
    kind = foolbox.attacks.LinfPGD if isinstance(threat, Linf) else foolbox.attacks.L2PGD
    attack = kind(abs_stepsize=step, steps=STEPS, random_start=True)
    bounded = foolbox.PyTorchModel(model, bounds=(0, 1), device="cpu")
    return attack(bounded, x, y, epsilons=threat.eps)[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--linf", type=float, default=0.05)
    parser.add_argument("--l2", type=float, default=0.8)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    model = load_model(options.model).requires_grad_(False)
    x, y = load(options.data, "test", root=options.root, limit=options.images)
    card = read_card(options.model)
    rows = []
    for threat in (Linf(options.linf), L2(options.l2)):
        step = float(threat.eps) / 8
        for seed in range(options.seeds):
            stands = {}
            for name, attack in (
                ("redoubtable", ours),
                ("torchattacks", theirs),
                ("foolbox", foolboxes),
            ):
                with seeded("peers", seed):
                    x_adv = attack(model, x, y, threat, step)
                assert bool(threat.contains(x_adv, x).all()), name
                with torch.no_grad():
                    stands[name] = model(x_adv).argmax(1) == y
            row: dict[str, Any] = {"threat": str(threat), "seed": seed, "step_size": step}
            for name, good in stands.items():
                row[name] = vars(wilson(int(good.sum()), len(x)))
                row[f"p_against_{name}"] = mcnemar(stands["redoubtable"], good)
            rows.append(row)
            shown = {name: f"{row[name]['value']:.1%}" for name in stands}
            print(threat, seed, shown)
    write_json(
        options.out,
        {
            "command": "python benchmarks/peers.py MODEL",
            "model": {"architecture": card.architecture, "recipe": card.recipe},
            "data": {"name": options.data, "n": len(x)},
            "view": "white box; no defense, so static is adaptive",
            "steps": STEPS,
            "restarts": 1,
            "rows": rows,
            "environment": environment(),
        },
    )


if __name__ == "__main__":
    main()
