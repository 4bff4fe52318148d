"""What MVM sampling costs: its solver, its draws, a sampled pass, a detection of 100 passes.

Paired (see timing.py): each round runs each contender once, on one thread.

    python benchmarks/mvm.py zoo/mnist-feinman zoo/cifar10-resnet20-natural --root DATA \
        --out results/mvm_speed.json

Asked: the exact solver on 128 x 1024 energies takes 100 ms at most and a twentieth of the published
gradient descent to the same objective (1e-6); a sampled pass costs at most 1.25 plain ones; MVM
draws a map five times as fast as SAP at the same share of kept values; 100 passes with units in the
last stage of a ResNet-20 alone are four times as fast as 100 plain passes.
"""

import argparse
import statistics
from pathlib import Path
from typing import Any

import torch
from attacks import shown_command
from timing import rounds
from torch import Tensor, nn

from redoubtable.data import load
from redoubtable.defenses import MVM, SAP, Sampled, mvm_probabilities
from redoubtable.defenses.mvm import algorithm_2, exact, keep_probabilities, variance
from redoubtable.defenses.sampling import feature_maps
from redoubtable.evaluation import environment
from redoubtable.files import write_json
from redoubtable.models import load_model, read_card
from redoubtable.seeding import seeded
from redoubtable.types import Images

GAP = 1e-6
PASSES = 100


def solvers(repeats: int) -> dict[str, Any]:
    """Seconds of the exact solver, and how many times as long the gradient descent takes.

    In double precision, in which the descent can get there; of energies as ReLUs give them, where
    it does not within its 800 steps, and of two kinder families.
    """
    with seeded("energies"):
        relus = torch.randn(128, 1024, 64).relu() * torch.rand(128, 1024, 1)
        zeros = torch.empty(128, 1024).exponential_() * (torch.rand(128, 1024) > 0.4)
        families = {
            "of ReLUs": relus.square().sum(2),
            "uniform": torch.rand(128, 1024),
            "exponential, 40% zeros": zeros,
        }
    found: dict[str, Any] = {}
    for name, energies in families.items():
        alpha = energies.double()
        for c in (512.0, 2048.0):
            steps, gap = _steps_to(alpha, c)
            runs = {
                "exact": lambda a=alpha, c=c: exact(a, c),
                "exact, single": lambda a=energies, c=c: exact(a, c),
                "algorithm 2": lambda a=alpha, c=c, n=steps: algorithm_2(a, c, n),
            }
            seconds = rounds(runs, repeats)
            middle = {run: statistics.median(times) for run, times in seconds.items()}
            found[f"{name}, c = {c:g}"] = {
                "milliseconds": {run: 1000 * s for run, s in middle.items()},
                "times_exact": middle["algorithm 2"] / middle["exact"],
                "steps_of_algorithm_2": steps,
                "gap_of_algorithm_2": gap,
                "seconds": seconds,
            }
    return found


def _steps_to(alpha: Tensor, c: float) -> tuple[int, float]:
    """The fewest steps of algorithm 2 whose objective is within `GAP` of the best, and its gap."""
    best = variance(alpha, exact(alpha, c), c) + alpha.sum(1)

    def gap(steps: int) -> float:
        objective = variance(alpha, algorithm_2(alpha, c, steps), c) + alpha.sum(1)
        return float(((objective - best) / best).max())

    low, high = 1, 800
    if gap(high) > GAP:
        return high, gap(high)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if gap(middle) <= GAP else (middle + 1, high)
    return low, gap(low)


def passes(net: nn.Module, x: Images, repeats: int) -> dict[str, Any]:
    """Seconds of a pass with units whose probabilities are known, beside a plain one."""
    models = {
        "MVM c = 0.5N": Sampled(net, MVM(0.5)),
        "MVM c = 0.5N, bernoulli": Sampled(net, MVM(0.5, law="bernoulli")),
        "MVM c = 2N": Sampled(net, MVM(2.0)),
    }
    plans = {name: model.probabilities(x) for name, model in models.items()}
    runs = {"plain": lambda: net(x)} | {
        name: (lambda m=model, p=plans[name]: m.draw(x, 1, p)) for name, model in models.items()
    }
    runs["the unsampled pass that fixes the probabilities"] = lambda: models[
        "MVM c = 0.5N"
    ].probabilities(x)
    return _against(rounds(runs, repeats), "plain")


def draws(net: nn.Module, x: Images, repeats: int) -> dict[str, Any]:
    """Seconds of the draws on the first map that keep the same share of its values."""
    maps, places = feature_maps(net, x)[0], x.shape[2:].numel()
    sap = SAP(1.0)
    q = sap.probabilities(maps, places)
    there = (maps > 0).flatten(1)
    kept = (keep_probabilities(q, q.shape[1]) * there).sum() / there.sum()
    energies = maps.square().sum(1).flatten(1)
    share = next(
        s / 20
        for s in range(1, 400)
        if keep_probabilities(mvm_probabilities(energies, s / 20 * places), s / 20 * places).mean()
        >= kept
    )
    mvm = MVM(share)
    p = mvm.probabilities(maps, places)
    runs = {
        "SAP 100%": lambda: sap.factors(q, 1, maps.shape, places),
        "MVM": lambda: mvm.factors(p, 1, maps.shape, places),
    }
    found = _against(rounds(runs, repeats), "SAP 100%")
    return {**found, "maps": list(maps.shape), "kept": kept.item(), "share of MVM": share}


def detection(net: nn.Module, x: Images, first: int, repeats: int) -> dict[str, Any]:
    """Seconds of 100 passes with units from one ReLU on, beside 100 plain passes."""
    last = Sampled(net, MVM(0.5, "layer"), first=first)
    all_of_them = Sampled(net, MVM(0.5, "layer"))

    def plain() -> None:
        for _ in range(PASSES):
            net(x)

    runs = {
        "plain": plain,
        "units in the last stage": lambda: last.answers(x, PASSES),
        "units everywhere": lambda: all_of_them.answers(x, PASSES),
    }
    return {**_against(rounds(runs, repeats), "plain"), "first": first, "images": len(x)}


def _against(seconds: dict[str, list[float]], one: str) -> dict[str, Any]:
    """Of each contender the median of its time over that of `one`, round by round."""
    return {
        "times": {
            name: statistics.median(t / b for t, b in zip(times, seconds[one], strict=True))
            for name, times in seconds.items()
        },
        "seconds": seconds,
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("plain", nargs="+", help="networks of the paper, such as zoo/mnist-feinman")
    parser.add_argument("residual", help="a ResNet-20, such as zoo/cifar10-resnet20-natural")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    record: dict[str, Any] = {
        "kind": "benchmark",
        "command": shown_command("mvm.py"),
        "environment": environment(),
        "solvers": solvers(1),  # the descent takes seconds
    }
    print(record["solvers"])
    for place in (*given.plain, given.residual):
        card = read_card(Path(place))
        net = load_model(Path(place)).eval().requires_grad_(False)
        x, _ = load(card.data["name"], "test", root=given.root, limit=64)
        with torch.no_grad():
            about = {"pass": passes(net, x, given.repeats), "draw": draws(net, x, given.repeats)}
            if place == given.residual:
                about["detection"] = detection(net, x[:8], 13, given.repeats)
        record[card.architecture] = about
        print(card.architecture, {k: v["times"] for k, v in about.items()})
    write_json(given.out, record)


if __name__ == "__main__":
    main()
