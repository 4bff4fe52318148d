r"""Which attack is strongest against random pixel subsampling, under each norm and in each mode.

Every attack searches on one form of the defended network (a single mask, the vote of ten, either
with its rejection) and its images are judged in all four, on fresh masks: the strongest of each
image is chosen on one set of draws and reported on another. A rejection counts as defended.

    python benchmarks/subsampling_attacks.py --root DATA --threat Linf:16/255 --rate 0.9 \
        --images 50 --out results/subsampling_attacks.json

The networks are those of the zoo, or the demo's (`redoubt demo --out DEMO`):

    python benchmarks/subsampling_attacks.py --root DATA --data digits --network DEMO/subsampled \
        --natural DEMO/natural --held-out 300 --threat Linf:0.2 --rate 0.9 --images 100 --out ...

Given again, it goes on from what stands in the record; other threats and rates are added to it.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attacks import shown_command
from numpy.typing import NDArray
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS, chosen
from redoubtable.attacks.search import Search
from redoubtable.data import load
from redoubtable.detectors import Entropy, Rejecting
from redoubtable.evaluation import environment, guarded
from redoubtable.evaluation.outcomes import worst_candidate
from redoubtable.evaluation.passes import counted
from redoubtable.evaluation.plan import expand
from redoubtable.files import digest_model, read_json, write_json
from redoubtable.gradients import fast_copy
from redoubtable.models import load_model
from redoubtable.parts import Facts, Part, facts_of
from redoubtable.seeding import seeded
from redoubtable.statistics import share_of_draws
from redoubtable.threat import ThreatModel, parse_threat

ZOO = Path("zoo")
DRAWS = {"single": 20, "vote": 6}
"""Answers of each image, for choosing and again for reporting."""
MODES = ("single", "single+reject", "vote", "vote+reject")
HINGES = tuple(f"loss=evasion_hinge_{b},success=evasion_margin" for b in ("0.1", "1", "10"))


@dataclass(frozen=True)
class Row:
    """An attack and the form of the network that it searches on; "bare" is that at rate 0."""

    on: str
    text: str


def paper(threat: ThreatModel) -> list[Row]:
    """The paper's: gradients of single masks, averaged over ten."""
    texts = [b.text for b in expand("dropping-pixels-gtsrb", threat)[0]]
    return [Row("single", text) for text in texts]


def adaptive(threat: ThreatModel, natural: str) -> list[Row]:
    """What knows the vote and the rejection, and a natural network's images."""
    climb = {"Linf": "pgd", "L2": "pgd", "L0": "l0_pgd"}[threat.name]
    steps = 40 if threat.name == "L0" else 20
    objectives = ("loss=evasion_margin", "loss=evasion_confidence")
    evasions = [f"{o},success=evasion_margin" for o in objectives]
    many = f"{climb}:steps={steps},"
    momentum = {"pgd": "momentum=0.9,", "l0_pgd": ""}[climb]
    rows = [
        *(Row("vote+reject", f"{many}{momentum}{o}") for o in (*evasions, *HINGES)),
        *(Row("vote", f"{many}{momentum}loss={loss}") for loss in ("margin", "cross_entropy")),
        Row("single", f"{many}{momentum}eot=10,loss=margin"),
        Row("mean logits", f"{many}{momentum}loss=margin"),
        Row("single+reject", f"{many}{momentum}eot=10,{evasions[1]}"),
        Row("vote+reject", f"{many}{momentum}{evasions[1]},targets=runner_up"),
        Row("bare", f"{many}{momentum}loss=margin,stop=False"),
        Row("vote", f"transfer:steps={steps},surrogates={natural}"),
    ]
    if threat.name == "L0":
        rows += [
            Row("vote+reject", f"pgd:steps={steps},{evasions[1]}"),
            Row("vote+reject", f"pgd0:restarts=1,steps={steps},{evasions[1]}"),
            Row("vote+reject", "sparse_rs:queries=200,success=evasion_margin"),
            Row("vote", f"pgd0:restarts=1,steps={steps},loss=margin"),
        ]
    else:
        rows += [
            Row("vote+reject", f"multi_targeted:classes=3,steps={steps},success=evasion_margin"),
            Row("vote+reject", "square:queries=100,success=evasion_margin"),
        ]
    return rows


class MeanLogits(Part):
    """The mean logits of ten masks: what a margin of them is taken of, never what is judged."""

    facts = Facts(
        stochastic=True, differentiable=True, batch_dependent=False, abstains=False, passes=10
    )

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.model(x.repeat(10, 1, 1, 1))
        return out.view(10, len(x), -1).mean(0)

    def undefended(self) -> nn.Module:
        return self.model


def forms(
    network: Path,
    drop: str,
    held_out: Callable[[], tuple[Tensor, Tensor]],
    seed: int,
    thresholds: dict[str, float],
) -> dict[str, nn.Module]:
    """The defended network in all modes; thresholds from held-out images, unless they are known."""
    reject = "reject:rule=accuracy,level=0.01"
    defenses = {"single": (drop,), "vote": (drop, "vote:draws=10")}
    found: dict[str, nn.Module] = {}
    for name, texts in defenses.items():
        net = load_model(network).requires_grad_(False)
        if name not in thresholds:
            guard = guarded(net, [*texts, reject], held_out(), seed)
            assert isinstance(guard, Rejecting)
            thresholds[name] = guard.threshold.value
        found[name], found["bare"] = guarded(net, texts), net
        found[f"{name}+reject"] = Rejecting(found[name], Entropy(), thresholds[name]).eval()
    found["mean logits"] = MeanLogits(found["single"])
    return found


@dataclass(frozen=True)
class Task:
    """What is attacked: one network in all its forms, some images and a threat."""

    models: Mapping[str, nn.Module]
    x: Tensor
    y: Tensor
    threat: ThreatModel
    seed: int
    precision: str

    def attack(self, row: Row) -> tuple[Tensor, dict[str, Any]]:
        """An attack's images, and what they cost."""
        model, x, y = self.models[row.on], self.x, self.y
        copy = fast_copy(model, x[:2], self.precision)  # type: ignore[arg-type]
        bound = ATTACKS.bind(row.text)
        given = {"batch_size": 512 // facts_of(model).passes} | dict(bound.arguments)
        started = time.perf_counter()
        key = (self.seed, row.on, row.text, str(self.threat))
        with seeded("subsampling attacks", *key), counted(copy) as spent:
            x_adv = bound.entry.obj(copy, x, y, self.threat, **chosen(given, copy, x, y))
        assert bool(self.threat.contains(x_adv, x).all())
        passes = (spent.forward + spent.backward) / len(x)
        return x_adv, {"passes_per_image": passes, "seconds": time.perf_counter() - started}

    def judge(self, x: Tensor, *key: object, clean: bool = False) -> dict[str, Any]:
        """How many of the answers to each image count for the defender, by mode and purpose."""
        counts: dict[str, Any] = {mode: {} for mode in MODES}
        for purpose in ("selection", "report"):
            for form, draws in DRAWS.items():
                guard = fast_copy(self.models[f"{form}+reject"], x[:2])
                plain, kept = torch.zeros(2, len(x), dtype=torch.long)
                with seeded(purpose, form, self.seed, *key), torch.no_grad():
                    for _ in range(draws):
                        # The classes' columns are what the mode without a rejection answers.
                        out = torch.cat([guard(part) for part in torch.split(x, 25)])
                        answers, classes = out.argmax(1), out.shape[1] - 1
                        plain += out[:, :classes].argmax(1) == self.y
                        kept += (answers == self.y) | ((answers == classes) & (not clean))
                counts[form][purpose] = _written(plain)
                counts[f"{form}+reject"][purpose] = _written(kept)
        return counts


@contextmanager
def noting_the_luckiest() -> Iterator[list[Tensor]]:
    """Note the images of largest value that searches would return without a fresh look."""
    found: list[Tensor] = []
    honest = Search.strongest

    def strongest(self: Search, eot: int) -> Tensor:
        found.append(self.best.clone())
        return honest(self, eot)

    Search.strongest = strongest  # type: ignore[method-assign]
    try:
        yield found
    finally:
        Search.strongest = honest  # type: ignore[method-assign]


def _written(counts: Tensor) -> str:
    """Counts as one line of a record."""
    return " ".join(map(str, counts.tolist()))


def _read(counts: str) -> NDArray[Any]:
    return np.array(counts.split(), dtype=int)


def share(counts: str | NDArray[Any], mode: str) -> dict[str, Any]:
    """The expected accuracy of one answer, with its interval."""
    told = _read(counts) if isinstance(counts, str) else counts
    found = share_of_draws(told, [DRAWS[mode.partition("+")[0]]] * len(told))
    assert found is not None
    return asdict(found)


def worst(rows: Sequence[Mapping[str, Any]], mode: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The reported counts of each image's worst row, and which row that is."""
    draws = np.arange(DRAWS[mode.partition("+")[0]])
    flags = [draws < _read(r["stands"][mode]["selection"])[:, None] for r in rows]
    chosen_ = worst_candidate(flags)
    report = np.array([_read(r["stands"][mode]["report"]) for r in rows])
    return report[chosen_, np.arange(report.shape[1])], chosen_


def _fewest(rows: Sequence[Mapping[str, Any]], mode: str) -> int:
    """What the draws for choosing say is left."""
    left = [_read(r["stands"][mode]["selection"]) for r in rows]
    return int(np.min(left, axis=0).sum())


def summary(rows: Sequence[Mapping[str, Any]], clean: Mapping[str, Any]) -> dict[str, Any]:
    """By mode: the strongest attack, the worst case of the paper's and of all, who adds most."""
    told: dict[str, Any] = {}
    first = [r for r in rows if not r["effort"]]
    for mode in MODES:
        ours = [r for r in first if not r["paper"]]
        theirs = [r for r in first if r["paper"]]
        by = sorted(first, key=lambda r: _read(r["stands"][mode]["report"]).sum())
        order, left = [], list(first)
        while left and len(order) < 4:
            best = min(left, key=lambda r: _fewest([*order, r], mode))
            order.append(best)
            left.remove(best)
        told[mode] = {
            "clean": clean[mode],
            "paper": share(worst(theirs, mode)[0], mode) if theirs else None,
            "adaptive": share(worst(ours, mode)[0], mode) if ours else None,
            "all": share(worst(first, mode)[0], mode),
            "strongest": [
                {"attack": name(r), "accuracy": share(r["stands"][mode]["report"], mode)}
                for r in by[:3]
            ],
            "one after the other": [
                {"attack": name(r), "left": share(worst(order[: i + 1], mode)[0], mode)}
                for i, r in enumerate(order)
            ],
        }
    return told


def name(row: Mapping[str, Any]) -> str:
    """How a row is called."""
    return f"{row['attack']} on {row['on']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--network", type=Path, default=ZOO / "gtsrb-resnet20-subsampled")
    parser.add_argument("--natural", type=Path, default=ZOO / "gtsrb-resnet20-natural")
    parser.add_argument("--data", default="gtsrb")
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--threat", required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--granularity", default="element", choices=("element", "pixel"))
    parser.add_argument("--images", type=int, default=50)
    parser.add_argument("--held-out", type=int, default=1000, help="images for the thresholds")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--only", action="append", help="rows that hold this text; repeatable")
    parser.add_argument("--also", action="append", default=[], help="'ON: ATTACK', of more effort")
    parser.add_argument("--luckiest", action="store_true", help="judge those by largest value too")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    threat = parse_threat(options.threat)
    x, y = load(options.data, "test", root=options.root, limit=options.images)
    record: dict[str, Any] = read_json(options.out, "record") if options.out.exists() else {}
    commands = [*record.get("commands", []), shown_command(Path(__file__).name)]
    record |= {
        "commands": list(dict.fromkeys(commands)),
        "draws": DRAWS,
        "environment": environment(),
    }
    case = record.setdefault("cases", {}).setdefault(
        f"{options.network.name} {threat} rate={options.rate:g}",
        {
            "n": len(x),
            "seed": options.seed,
            "granularity": options.granularity,
            "thresholds": {},
            "rows": [],
        },
    )
    held_out = partial(load, options.data, "validation", root=options.root, limit=options.held_out)
    drop = f"subsample:rate={options.rate},granularity={options.granularity}"
    models = forms(options.network, drop, held_out, options.seed, case["thresholds"])
    task = Task(models, x, y, threat, options.seed, options.precision)
    clean = task.judge(x, "clean", clean=True)
    case["network"] = digest_model(models["bare"])
    case["clean"] = {m: share(clean[m]["report"], m) for m in MODES}
    rows = [(r, False, False) for r in adaptive(threat, str(options.natural))] + [
        (r, True, False) for r in paper(threat)
    ]
    rows = [r for r in rows if not options.only or any(o in str(r[0]) for o in options.only)]
    rows += [(Row(*text.split(": ", 1)), False, True) for text in options.also]
    for row, published, effort in rows:
        if any((r["on"], r["attack"]) == (row.on, row.text) for r in case["rows"]):
            continue
        with noting_the_luckiest() as luckiest:
            x_adv, cost = task.attack(row)
        stands = task.judge(x_adv, row.on, row.text)
        told = {m: share(stands[m]["report"], m)["value"] for m in MODES}
        short = " ".join(f"{v:.3f}" for v in told.values())
        print(f"{short} {cost['seconds']:4.0f} s  {row.on}: {row.text}", flush=True)
        about = {"on": row.on, "attack": row.text, "paper": published, "effort": effort}
        if options.luckiest and luckiest:
            lucky = task.judge(luckiest[-1], "luckiest", row.on, row.text)
            about["luckiest"] = {m: share(lucky[m]["report"], m)["value"] for m in MODES}
        case["rows"].append(about | {"accuracy": told, "stands": stands} | cost)
        case["summary"] = summary(case["rows"], case["clean"])
        write_json(options.out, record)


if __name__ == "__main__":
    main()
