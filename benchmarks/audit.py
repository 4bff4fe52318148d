"""How long a whole audit takes, what it said it would take, and what its passes alone would.

The second number is the plan's. The third is a bound: the passes that the attacks of the suites
took, checks left out, at the best rates that the same network reaches in as many processes that do
nothing else. An audit far above it wastes time, and one that is near can't be much faster.

    python benchmarks/audit.py zoo/cifar10-resnet20-pgd --data cifar10-jpeg --root DATA \
        --out results/audit.json
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from attacks import shown_command

from redoubtable.evaluation import environment
from redoubtable.files import write_json
from redoubtable.gradients import fast_copy, input_gradient
from redoubtable.losses import aim, margin
from redoubtable.models import load_model

BATCHES = (32, 64, 96)
SECONDS = 3.0


def rates(model: str, shape: tuple[int, ...], precision: Any) -> dict[str, float]:
    """The most forward passes and gradients that this process reaches in a second."""
    torch.set_num_threads(1)
    network, best = load_model(model).eval(), {"forward": 0.0, "gradient": 0.0}
    for size in BATCHES:
        x, y = torch.rand(size, *shape), torch.zeros(size, dtype=torch.long)
        copy, objective = fast_copy(network, x[:2], precision), aim(margin, y, None)

        def forward(copy: Any = copy, x: Any = x) -> None:
            with torch.no_grad():
                copy(x)

        def gradient(copy: Any = copy, x: Any = x, objective: Any = objective) -> None:
            input_gradient(copy, x, objective)

        for name, pass_ in (("forward", forward), ("gradient", gradient)):
            pass_()
            count, started = 0, time.perf_counter()
            while time.perf_counter() - started < SECONDS:
                pass_()
                count += size
            best[name] = max(best[name], count / (time.perf_counter() - started))
    return best


def all_rates(options: argparse.Namespace, shape: list[int]) -> dict[str, float]:
    """The rates of all processes together, which work at the same time."""
    words = [sys.executable, __file__, options.model, "--precision", options.precision]
    words += ["--rates", *map(str, shape)]
    running = [
        subprocess.Popen(words, stdout=subprocess.PIPE, env=os.environ | {"OMP_NUM_THREADS": "1"})
        for _ in range(options.processes)
    ]
    found = [json.loads(process.communicate()[0]) for process in running]
    return {name: sum(one[name] for one in found) for name in ("forward", "gradient")}


def passes(record: dict[str, Any]) -> dict[str, int]:
    """Forward passes without a gradient, and gradients, of all attacks of an evaluation."""
    both = [row["passes"] for row in record["rows"]]
    gradients = sum(one["backward"] for one in both)
    return {"forward": sum(one["forward"] for one in both) - gradients, "gradient": gradients}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--data")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--threat", default="Linf:8/255")
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--precision", default="bf16")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--budget", type=float)
    parser.add_argument("--rates", type=int, nargs="*", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("results/audit.json"))
    options = parser.parse_args()
    if options.rates:
        print(json.dumps(rates(options.model, tuple(options.rates), options.precision)))
        return
    command = [sys.executable, "-m", "redoubtable", "audit", options.model]
    command += ["--threat", options.threat, "--limit", str(options.images), "--device", "cpu"]
    command += ["--precision", options.precision, "--processes", str(options.processes)]
    command += ["--data", options.data] if options.data else []
    command += ["--root", str(options.root)] if options.root else []
    command += ["--budget", str(options.budget)] if options.budget else []
    with tempfile.TemporaryDirectory() as folder:
        started = time.perf_counter()
        subprocess.run([*command, "--out", folder], check=True)
        seconds = time.perf_counter() - started
        plan = json.loads((Path(folder) / "plan.json").read_text())
        records = {
            suite: json.loads((Path(folder) / suite / "record.json").read_text())
            for suite in plan["suites"]
        }
    first = next(iter(records.values()))
    took = {suite: passes(record) for suite, record in records.items()}
    best = all_rates(options, first["data"]["shape"])
    bound = {suite: sum(n / best[kind] for kind, n in one.items()) for suite, one in took.items()}
    write_json(
        options.out,
        {
            "command": shown_command("audit.py"),
            "model": options.model,
            "data": first["data"]["name"],
            "threat": options.threat,
            "n": plan["n"],
            "seed": first["settings"]["seed"],
            "precision": options.precision,
            "processes": options.processes,
            "cut": plan["cut"],
            "seconds": {"all": seconds, "estimated": plan["seconds"]},
            "robust": {s: r["robust"]["accuracy"]["one_shot"] for s, r in records.items()},
            "passes": took,
            "passes_per_second": best,
            "seconds_of_passes_alone": bound,
            "environment": environment(),
        },
    )
    print(f"{seconds:.0f} s, estimated {plan['seconds']:.0f} s beside the estimate itself")
    print(f"the passes of the attacks alone: {bound}")


if __name__ == "__main__":
    main()
