"""How fast the training loop is, beside loops that are nothing but PyTorch.

Paired (see timing.py). Contenders, all on a CIFAR ResNet-20 with crop and flip:

- ours: `redoubtable.training`, with the settings of the bare loop;
- bare: a loop written by hand with the same settings (precision, channels last, augmentation);
- plain: a loop as in most repositories: float32, NCHW;
- trades: beside the passes that it must make, timed one by one.

First weights and all that our loop draws are named by the seed, what the others draw by the number
of the round. Beside every ratio, a median over rounds, stand the lowest and the highest of them.

    python benchmarks/training.py --root DATA --out results/training.json
    python benchmarks/training.py --processes --root DATA --out results/two_processes.json
"""

import argparse
import json
import os
import shlex
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from timing import compare, rounds
from torch import nn

from redoubtable.data import read, to_unit
from redoubtable.evaluation import environment
from redoubtable.files import write_json
from redoubtable.models import create
from redoubtable.seeding import seeded
from redoubtable.training import RECIPES, Settings
from redoubtable.training.run import Run

SEED, BATCH, EPS, STEP, STEPS, BETA = 0, 128, 0.031, 0.007, 10, 6.0
TOGETHER = (128, 256)
"""Batches of two processes in all; each has half."""


def network() -> nn.Module:
    with seeded("init", SEED):
        return create("resnet20")


def run_of(data: Any, recipe: str, precision: str, batch: int = BATCH) -> Run:
    settings = Settings(
        epochs=1000,
        batch_size=batch,
        weight_decay=5e-4,
        augment="crop+flip",
        precision=precision,
        seed=SEED,
    )
    bound = RECIPES.bind(recipe)
    return Run(network(), data, None, bound.entry.obj(**bound.arguments), settings)


def by_hand(images: torch.Tensor) -> torch.Tensor:
    """Crop and flip one batch, written without a look at the library's."""
    n, side = len(images), torch.arange(32)
    rows = torch.randint(9, (n, 1)) + side
    columns = torch.where(torch.rand(n, 1) < 0.5, 31 - side, side) + torch.randint(9, (n, 1))
    padded = F.pad(images, (4, 4, 4, 4))
    flat = (rows[:, :, None] * 40 + columns[:, None, :]).view(n, 1, -1).expand(-1, 3, -1)
    return padded.flatten(2).gather(2, flat).view(n, 3, 32, 32)


class Bare:
    """A loop of nothing but PyTorch."""

    def __init__(self, data: Any, precision: str, layout: torch.memory_format) -> None:
        self.model = network().to(memory_format=layout).train()
        self.data, self.layout, self.half = data, layout, precision == "bf16"
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, 10**6)

    def epoch(self) -> None:
        for batch in torch.randperm(len(self.data)).split(BATCH):
            x = by_hand(self.data.images[batch]).float().div(255)
            x, y = x.contiguous(memory_format=self.layout), self.data.labels[batch]
            with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                loss = F.cross_entropy(self.model(x), y)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            self.schedule.step()


def ratio(name: str, above: Sequence[float], below: Sequence[float]) -> dict[str, Any]:
    """A ratio of seconds: the median of all rounds, and what it is between."""
    every = [a / b for a, b in zip(above, below, strict=True)]
    return {name: statistics.median(every), f"{name}_range": [min(every), max(every)]}


def compared(seconds: dict[str, list[float]], images: int, against: str) -> dict[str, Any]:
    """What `compare` says, with what each ratio is between."""
    result = compare(seconds, images, against)
    for name, row in result.items():
        row |= ratio(f"times_{against}", seconds[against], seconds[name])
    return result


def loops(data: Any, repeats: int) -> dict[str, Any]:
    nothing = lambda *what: None  # noqa: E731
    ours = {p: run_of(data, "natural", p) for p in ("fp32", "bf16")}
    bare = {p: Bare(data, p, torch.channels_last) for p in ("fp32", "bf16")}
    plain = Bare(data, "fp32", torch.contiguous_format)
    contenders = {
        "plain fp32": plain.epoch,
        **{f"bare {p}": bare[p].epoch for p in bare},
        **{f"ours {p}": lambda p=p: ours[p].epoch(1, nothing) for p in ours},
    }
    seconds = rounds(contenders, repeats)
    result = compared(seconds, len(data), "plain fp32")
    for p in ours:
        result[f"ours {p}"] |= ratio("times_bare", seconds[f"bare {p}"], seconds[f"ours {p}"])
    return result


def trades_passes(data: Any, repeats: int, precision: str) -> dict[str, Any]:
    """One epoch of TRADES beside the passes it is made of: written out with PyTorch alone."""
    model = network().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=5e-4)
    half = precision == "bf16"

    def passes() -> None:
        for batch in torch.randperm(len(data)).split(BATCH):
            x = to_unit(by_hand(data.images[batch]))
            x, y = x.contiguous(memory_format=torch.channels_last), data.labels[batch]
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                model.eval()
                with torch.no_grad():
                    p = model(x).float().softmax(1)
                x_adv = x + 0.001 * torch.randn_like(x)
                for _ in range(STEPS):
                    x_adv = x_adv.detach().requires_grad_()
                    apart = F.kl_div(model(x_adv).float().log_softmax(1), p, reduction="sum")
                    (slope,) = torch.autograd.grad(apart, x_adv)
                    x_adv = x_adv.detach() + STEP * slope.sign()
                    x_adv = x_adv.clamp(x - EPS, x + EPS).clamp(0, 1)
                model.train()
                clean = model(x).float()
                answer = model(x_adv.detach()).float().log_softmax(1)
                loss = F.cross_entropy(clean, y) + BETA * F.kl_div(
                    answer, clean.softmax(1), reduction="batchmean"
                )
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

    ours = run_of(data, "trades", precision)
    contenders = {"its passes": passes, "ours": lambda: ours.epoch(1, lambda *what: None)}
    result = compared(rounds(contenders, repeats), len(data), "its passes")
    result["images"] = len(data)
    result["per image"] = "10 input gradients, 1 forward pass, 2 forward and backward passes"
    return result


def child(options: argparse.Namespace) -> None:
    """One of the processes that train together: epochs in float32, timed by the first."""
    torch.set_num_threads(1)
    data = read(options.data, "train", root=options.root, limit=options.images)
    run = run_of(data, "natural", "fp32", options.child)
    run.epoch(1, lambda *what: None)
    seconds = []
    for _ in range(options.repeats):
        run.processes.gather(0)
        started = time.perf_counter()
        run.epoch(1, lambda *what: None)
        seconds.append(time.perf_counter() - started)
    if run.processes.first:
        print(json.dumps(seconds))


def launch(count: int, batch: int, options: argparse.Namespace) -> list[float]:
    """Start `count` processes, each held to one core and one thread; seconds per epoch."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, __file__, "--child", str(batch), "--data", options.data]
    command += ["--images", str(options.images), "--repeats", "3"]
    command += ["--root", str(options.root)] if options.root else []
    cores = sorted(os.sched_getaffinity(0))
    started = []
    for rank in range(count):
        names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_PORT": port}
        variables = {k: str(v) for k, v in names.items()} | {"MASTER_ADDR": "localhost"}
        started.append(
            subprocess.Popen(
                command,
                env={**os.environ, **variables, "OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
                preexec_fn=lambda rank=rank: os.sched_setaffinity(0, {cores[rank]}),
            )
        )
    outputs = [p.communicate()[0] for p in started]
    assert not any(p.returncode for p in started), outputs
    return list(json.loads(outputs[0].splitlines()[-1]))


def two_processes(options: argparse.Namespace) -> dict[str, Any]:
    """Images per second of two processes on a core each, beside one process on one core.

    By the batch of both together.
    """
    seconds: dict[int, dict[int, list[float]]] = {b: {1: [], 2: []} for b in TOGETHER}
    for number in range(options.repeats):
        order = [(batch, count) for batch in TOGETHER for count in (1, 2)]
        for batch, count in order if number % 2 else reversed(order):
            seconds[batch][count] += launch(count, batch, options)
    return {
        str(batch): {
            "images_per_second": {c: options.images / statistics.median(s) for c, s in of.items()},
            **ratio("times_one_process", of[1], of[2]),
            "seconds": of,
        }
        for batch, of in seconds.items()
    }


def typed(words: Sequence[str]) -> str:
    """The command as it was given; only where the data lie is a matter of the machine."""
    shown = []
    for before, word in zip(["", *words], words, strict=False):
        there = "DATA" if before == "--root" else word
        shown.append("--root=DATA" if there.startswith("--root=") else there)
    return shlex.join(["python", "benchmarks/training.py", *shown])


def between(row: dict[str, Any], name: str) -> str:
    """A ratio as text."""
    low, high = row[f"{name}_range"]
    return f"{row[name]:.2f}x ({low:.2f} to {high:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--images", type=int, default=2560)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--processes", action="store_true")
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("results/training.json"))
    options = parser.parse_args()
    if options.child:
        child(options)
        return
    record: dict[str, Any] = {
        "command": typed(sys.argv[1:]),
        "seed": SEED,
        "data": {"name": options.data, "n": options.images},
        "batch": list(TOGETHER) if options.processes else BATCH,
        "network": "resnet20",
        "environment": environment(),
    }
    if options.processes:
        record["two_processes"] = two_processes(options)
        for batch, row in record["two_processes"].items():
            print(f"two processes, batches of {batch}: {between(row, 'times_one_process')} one")
    else:
        data = read(options.data, "train", root=options.root, limit=options.images)
        record["loops"] = loops(data, options.repeats)
        few = data.take(torch.arange(min(len(data), 4 * BATCH)))
        record["trades"] = {p: trades_passes(few, options.repeats, p) for p in ("fp32", "bf16")}
        for name, row in record["loops"].items():
            bare = f", {between(row, 'times_bare')} bare" if "times_bare" in row else ""
            plain = between(row, "times_plain fp32")
            print(f"{name}: {row['images_per_second']:.0f}/s, {plain} plain{bare}")
        for precision, row in record["trades"].items():
            cost = between(row["ours"], "times_its passes")
            print(f"trades {precision}: {cost} as fast as its passes alone")
    write_json(options.out, record)


if __name__ == "__main__":
    main()
