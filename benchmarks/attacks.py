"""How fast and how strong the attacks are beside those of torchattacks, foolbox and ART.

Paired (see timing.py): the contenders of a comparison take turns within one run, on the same
images, with the same budget, and every result is looked at again by the same network. Robust
accuracy, or success and the median size of the change, stands beside every time.

    python benchmarks/attacks.py --root DATA --out results/attacks.json
    python benchmarks/attacks.py --root DATA --only lean --images 500 --out lean.json

Needs `pip install -e '.[peers]'`, and for ZOO and one-pixel adversarial-robustness-toolbox.
"""

import argparse
import json
import math
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from suites import autoattack
from timing import rounds
from torch import Tensor, nn

from redoubtable.attacks import ATTACKS
from redoubtable.data import load
from redoubtable.evaluation import Settings, environment, evaluate
from redoubtable.evaluation.passes import counted
from redoubtable.evaluation.suites import SUITES, Line, Suite
from redoubtable.files import write_json
from redoubtable.gradients import fast_copy, input_gradient
from redoubtable.losses import aim, cross_entropy
from redoubtable.models import load_model
from redoubtable.seeding import seeded
from redoubtable.statistics import wilson
from redoubtable.threat import L0, L2, Linf, ThreatModel

ZOO = Path(__file__).parent.parent / "zoo"
NATURAL, TRAINED = "cifar10-resnet20-natural", "cifar10-resnet20-pgd"
EPS = 8 / 255
Contender = Callable[[], Tensor]


def ours(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    text: str,
    precision: str = "fp32",
    **more: Any,
) -> Contender:
    """An attack as the evaluation runs it: on a fast copy, made anew each time."""
    bound = ATTACKS.bind(text)
    size = {"batch_size": 256} | dict(bound.arguments) | more

    def run() -> Tensor:
        copy = fast_copy(net, x[:2], precision)  # type: ignore[arg-type]
        found: Tensor = bound.entry.obj(copy, x, y, threat, **size)
        return found

    return run


def results(
    net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, x_adv: Tensor
) -> dict[str, Any]:
    """What an attack's images are worth, looked at by the network itself."""
    with torch.no_grad():
        wrong = net(x_adv).argmax(1) != y
    sizes = threat.distance(x, x_adv)[wrong]
    return {
        "robust_accuracy": vars(wilson(int((~wrong).sum()), len(y))),
        "median_distance_of_successes": sizes.median().item() if len(sizes) else None,
        "legal": bool(threat.contains(x_adv, x).all()),
    }


def against(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    contenders: dict[str, Contender],
    repeats: int,
) -> dict[str, Any]:
    """Times of all contenders, how many times faster the first is, and what each found."""
    found: dict[str, Tensor] = {}

    def kept(name: str, run: Contender) -> Callable[[], None]:
        def once() -> None:
            found[name] = run()

        return once

    seconds = rounds({name: kept(name, run) for name, run in contenders.items()}, repeats)
    first = next(iter(contenders))
    table: dict[str, Any] = {"threat": str(threat), "n": len(x), "repeats": repeats}
    for name, times in seconds.items():
        ratios = [t / o for t, o in zip(times, seconds[first], strict=True)]
        table[name] = {
            "seconds": times,
            "times_ours": [min(ratios), statistics.median(ratios), max(ratios)],
            **results(net, x, y, threat, found[name]),
        }
    return table


# -- the comparisons -----------------------------------------------------------------------------


def pgd_20(root: Path, images: int, repeats: int) -> dict[str, Any]:
    import foolbox
    import torchattacks

    net, x, y = subject(NATURAL, root, images)
    step, threat = EPS / 4, Linf(EPS)
    theirs = torchattacks.PGD(net, eps=EPS, alpha=step, steps=20)
    linf = foolbox.attacks.LinfPGD(abs_stepsize=step, steps=20, random_start=True)
    wrapped = foolbox.PyTorchModel(net, bounds=(0, 1), device="cpu")
    text = f"pgd:steps=20,step_size={step}"
    contenders = {
        "ours bf16": ours(net, x, y, threat, text, "bf16"),
        "ours fp32": ours(net, x, y, threat, text),
        "torchattacks": lambda: theirs(x, y),
        "foolbox": lambda: linf(wrapped, x, y, epsilons=EPS)[1],
    }
    return against(net, x, y, threat, contenders, repeats)


def carlini_wagner(root: Path, images: int, repeats: int) -> dict[str, Any]:
    import torchattacks

    net, x, y = subject(NATURAL, root, images)
    theirs = torchattacks.CW(net, c=1, kappa=0, steps=100, lr=0.01)
    text = "carlini_wagner:const=1,steps=100"
    contenders = {
        "ours fp32": ours(net, x, y, L2(torch.inf), text),
        "ours bf16": ours(net, x, y, L2(torch.inf), text, "bf16"),
        "torchattacks": lambda: theirs(x, y),
    }
    # torchattacks stops an example's search when its loss stops falling: with fewer steps for
    # ours the two can be compared in time where they agree in the median size.
    for steps in (40, 60):
        fewer = f"carlini_wagner:const=1,steps={steps}"
        contenders[f"ours bf16, {steps} steps"] = ours(net, x, y, L2(torch.inf), fewer, "bf16")
    return against(net, x, y, L2(torch.inf), contenders, repeats)


def standard(root: Path, images: int, repeats: int) -> dict[str, Any]:
    net, x, y = subject(TRAINED, root, images)
    threat, whole = Linf(EPS), autoattack(net, EPS)
    mine = in_processes(2, TRAINED, root, images, threat, "standard")
    other = run_once(net, x, y, threat, lambda: whole(x, y))
    mine["times_as_fast"] = other["seconds"] / mine["seconds"]
    table = {"ours bf16, 2 processes": mine, "torchattacks, 100 steps": other}
    return {"threat": str(threat), "n": len(x), "repeats": 1, **table}


def standard_in_one_process(root: Path, images: int, repeats: int) -> dict[str, Any]:
    import torchattacks

    net, x, y = subject(TRAINED, root, images)
    threat = Linf(EPS)
    theirs = torchattacks.AutoAttack(net, norm="Linf", eps=EPS, version="standard", n_classes=10)
    whole = autoattack(net, EPS)
    lines = (
        "apgd:loss=cross_entropy,steps=10",
        "apgd_targeted:loss=dlr,steps=10",
        "fab_targeted:steps=10",
        "square",
    )
    short = Suite(tuple(Line(text) for text in lines), True, "10 steps, as torchattacks has it")
    SUITES["short"] = short  # type: ignore[index]
    contenders = {
        "ours bf16": suite(net, x, y, threat, "standard", "bf16"),
        "torchattacks, 100 steps": lambda: whole(x, y),
        "ours bf16, 10 steps": suite(net, x, y, threat, "short", "bf16"),
        "torchattacks, its 10 steps": lambda: theirs(x, y),
    }
    found = {name: run_once(net, x, y, threat, run) for name, run in contenders.items()}
    for steps, mine in (("100 steps", "ours bf16"), ("10 steps", "ours bf16, 10 steps")):
        other = next(name for name in found if name.startswith("torch") and steps in name)
        found[other]["times_ours"] = found[other]["seconds"] / found[mine]["seconds"]
    return {"threat": str(threat), "n": len(x), "repeats": 1, **found}


def in_processes(
    count: int, name: str, root: Path, images: int, threat: ThreatModel, attack: str
) -> dict[str, Any]:
    """A suite by the command, its start included, in several processes of one thread each."""
    command = [sys.executable, "-m", "redoubtable", "evaluate", str(ZOO / name)]
    command += ["--no-check", "--no-curve"]
    command += ["--root", str(root), "--data", "cifar10-jpeg", "--limit", str(images)]
    command += ["--threat", str(threat), "--attack", attack, "--precision", "bf16"]
    command += ["--chunk", str(math.ceil(images / count)), "--processes", str(count)]
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run(
            [*command, "--out", folder],
            check=True,
            stdout=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        seconds = time.perf_counter() - started
        record = json.loads((Path(folder) / "record.json").read_text())
    rows = record["rows"]
    return {
        "seconds": seconds,
        "passes": {k: sum(r["passes"][k] for r in rows) for k in ("forward", "backward")},
        "robust_accuracy": record["robust"]["accuracy"]["one_shot"],
    }


def suite(
    net: nn.Module,
    x: Tensor,
    y: Tensor,
    threat: ThreatModel,
    name: str,
    precision: str,
) -> Contender:
    """A suite through the evaluation; the images of each example's last attack."""

    def run() -> Tensor:
        settings = Settings(chunk=len(x), batch_size=256, keep=len(x), precision=precision)  # type: ignore[arg-type]
        e = evaluate(net, x, y, threat, name, settings=settings, curve=(), check=False)
        return torch.from_numpy(list(e.images.values())[-1])

    return run


def run_once(
    net: nn.Module, x: Tensor, y: Tensor, threat: ThreatModel, run: Contender
) -> dict[str, Any]:
    """Time, forward passes and result of something that takes minutes."""
    with seeded("once", 0), counted(net) as passes:
        started = time.perf_counter()
        x_adv = run()
        seconds = time.perf_counter() - started
    shown = {"seconds": seconds, "passes_of_the_exact_network": vars(passes)}
    return shown | results(net, x, y, threat, x_adv)


def lean(root: Path, images: int, repeats: int) -> dict[str, Any]:
    """The lean suite beside the standard one: passes, accuracy, seconds."""
    net, x, y = subject(TRAINED, root, images)
    threat, table = Linf(EPS), {}
    for name in ("lean", "standard"):
        settings = Settings(chunk=250, batch_size=256, precision="bf16")
        started = time.perf_counter()
        e = evaluate(net, x, y, threat, name, settings=settings, curve=(), check=False)
        rows = e.record["rows"]
        table[name] = {
            "robust": e.record["robust"]["accuracy"]["one_shot"],
            "passes": {k: sum(r["passes"][k] for r in rows) for k in ("forward", "backward")},
            "rows": {r["attack"]: r["accuracy"]["one_shot"]["value"] for r in rows},
            "seconds": time.perf_counter() - started,
        }
    total = {name: sum(table[name]["passes"].values()) for name in table}
    share = total["lean"] / total["standard"]
    return {"threat": str(threat), "n": len(x), "share_of_passes": share, **table}


def one_pixel(root: Path, images: int, repeats: int) -> dict[str, Any]:
    from art.attacks.evasion import PixelAttack

    net, x, y = subject(NATURAL, root, images)
    theirs = PixelAttack(art_classifier(net, x), th=1, es=1, max_iter=20, verbose=False)
    contenders = {
        "ours bf16": ours(net, x, y, L0(1), "one_pixel:steps=20", "bf16"),
        # A quarter of the paper's population, for a quarter of the passes.
        "ours bf16, population 100": ours(
            net, x, y, L0(1), "one_pixel:steps=20,population=100", "bf16"
        ),
        "ours fp32": ours(net, x, y, L0(1), "one_pixel:steps=20"),
        "art": lambda: torch.from_numpy(theirs.generate(x.numpy(), y.numpy())),
    }
    return against(net, x, y, L0(1), contenders, repeats)


def zoo(root: Path, images: int, repeats: int) -> dict[str, Any]:
    from art.attacks.evasion import ZooAttack

    net, x, y = subject(NATURAL, root, images)

    def theirs(steps: int, draws: int, step_size: float) -> Contender:
        attack = ZooAttack(
            art_classifier(net, x), max_iter=steps, binary_search_steps=1, initial_const=10.0,
            nb_parallel=draws, batch_size=1, use_resize=False, use_importance=False,
            learning_rate=step_size, variable_h=1e-4, verbose=False,
        )  # fmt: skip
        return lambda: torch.from_numpy(attack.generate(x.numpy(), y.numpy()))

    # The authors' draws and steps' length, and a fifth of the queries with longer steps.
    budgets = {"": (100, 128, 0.01), ", 40 steps, 64 draws, twice as long": (40, 64, 0.02)}
    contenders: dict[str, Contender] = {}
    for said, (steps, draws, step_size) in budgets.items():
        text = f"zoo:steps={steps},draws={draws},step_size={step_size},const=10"
        contenders[f"ours{said}"] = ours(net, x, y, L2(torch.inf), text)
        contenders[f"art{said}"] = theirs(steps, draws, step_size)
    return against(net, x, y, L2(torch.inf), contenders, repeats)


def art_classifier(net: nn.Module, x: Tensor) -> Any:
    from art.estimators.classification import PyTorchClassifier

    return PyTorchClassifier(
        model=net, loss=nn.CrossEntropyLoss(), input_shape=tuple(x.shape[1:]), nb_classes=10,
        clip_values=(0, 1), device_type="cpu",
    )  # fmt: skip


def eot(root: Path, images: int, repeats: int) -> dict[str, Any]:
    """Thirty draws of a random model beside thirty plain passes."""
    from redoubtable.defenses import Subsample

    net, x, y = subject(NATURAL, root, images)
    model = fast_copy(nn.Sequential(Subsample(rate=0.5), net), x[:2])
    objective = aim(cross_entropy, y, None)

    def plain() -> None:
        for _ in range(30):
            input_gradient(model, x, objective)

    contenders = {
        "30 draws": lambda: input_gradient(model, x, objective, eot=30),
        "30 plain": plain,
    }
    seconds = rounds(contenders, repeats)
    ratios = [a / b for a, b in zip(seconds["30 draws"], seconds["30 plain"], strict=True)]
    cost = [min(ratios), statistics.median(ratios), max(ratios)]
    return {"n": len(x), "repeats": repeats, "cost_of_30_draws": cost, "seconds": seconds}


def subject(name: str, root: Path, images: int) -> tuple[nn.Module, Tensor, Tensor]:
    """A network of the zoo and test images of CIFAR-10."""
    x, y = load("cifar10-jpeg", "test", root=root, limit=images)
    return load_model(ZOO / name).requires_grad_(False), x, y


COMPARISONS: dict[str, tuple[Callable[[Path, int, int], dict[str, Any]], int]] = {
    "pgd_20": (pgd_20, 512),
    "carlini_wagner": (carlini_wagner, 100),
    "standard": (standard, 200),
    "standard_in_one_process": (standard_in_one_process, 100),
    "lean": (lean, 500),
    "one_pixel": (one_pixel, 20),
    "zoo": (zoo, 16),
    "eot": (eot, 64),
}
"""Comparisons, with how many images they take by default."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=list(COMPARISONS))
    parser.add_argument("--images", type=int, help="instead of each comparison's own number")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    record: dict[str, Any] = {
        "command": shown_command("attacks.py"),
        "seed": 0,
        "networks": [NATURAL, TRAINED],
        "view": "white box; no defense, so static is adaptive",
        "environment": environment(),
    }
    for name in options.only or COMPARISONS:
        compare, images = COMPARISONS[name]
        record[name] = compare(options.root, options.images or images, options.repeats)
        print(name, {k: v for k, v in record[name].items() if k != "seconds"}, flush=True)
        write_json(options.out, record)


def shown_command(script: str) -> str:
    """The command as it was typed, without this machine's folder of data."""
    arguments = sys.argv[1:]
    place = arguments.index("--root") + 1
    arguments = [*arguments[:place], "DATA", *arguments[place + 1 :]]
    return shlex.join(["python", f"benchmarks/{script}", *arguments])


if __name__ == "__main__":
    main()
