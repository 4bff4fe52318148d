"""How much memory every attack takes, and that `batch_size` bounds it.

Each case runs in a process of its own, whose peak of resident memory above what it had before the
attack is measured; on Linux. Passes of more images take more, more images only their own copies.

    python benchmarks/memory.py --root DATA --out results/memory.json

Needs no peers.
"""

import argparse
import multiprocessing
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from attacks import NATURAL, shown_command, subject

from redoubtable.attacks import ATTACKS
from redoubtable.evaluation import environment
from redoubtable.files import write_json
from redoubtable.registry import settable
from redoubtable.seeding import seeded
from redoubtable.threat import L0, L1, L2, L0Values, Linf

THREATS = {Linf: Linf(8 / 255), L2: L2(0.5), L1: L1(12.0), L0: L0(5), L0Values: L0Values(15)}
SHORT = {"steps": 2, "queries": 60, "restarts": 1, "search_steps": 2, "draws": 20, "population": 40}
"""Budgets that reach each attack's largest pass; what is held does not grow with steps."""
CASES = ((8, 4), (8, 32), (32, 4), (32, 32))
"""Images, and images in one pass."""


def peak(root: Path, name: str, images: int, batch_size: int) -> float:
    """MB above what the process had before the attack."""
    here, there = multiprocessing.get_context("fork").Pipe(duplex=False)
    child = multiprocessing.get_context("fork").Process(
        target=_measure, args=(there, root, name, images, batch_size)
    )
    child.start()
    there.close()
    try:
        found: float = here.recv()
    finally:
        child.join()
    return found


def _measure(pipe: Connection, root: Path, name: str, images: int, batch_size: int) -> None:
    net, x, y = subject(NATURAL, root, images)
    x = x[:, :, 8:24, 8:24].contiguous()  # CornerSearch looks at every pixel's corners
    entry = ATTACKS[name]
    takes = settable(entry.obj)
    arguments: dict[str, Any] = {k: v for k, v in SHORT.items() if k in takes}
    arguments |= {"batch_size": batch_size} if "batch_size" in takes else {}
    arguments |= {"surrogates": (net,)} if "surrogates" in takes else {}
    with torch.no_grad():
        net(x[:1])
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    with seeded("memory", name):
        entry.obj(net, x, y, THREATS[entry.facts["threats"][0]], **arguments)
    pipe.send((_resident("VmHWM") - before) / 1e3)


def _resident(field: str) -> float:
    """Kilobytes of this process."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return float(next(line for line in lines if line.startswith(field)).split()[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--root", type=Path, required=True)
    parser.add_argument("--only", action="append", choices=[entry.name for entry in ATTACKS])
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    torch.set_num_threads(1)  # a process that forks must not have started others
    image = 3 * 16 * 16 * 4 / 1e6
    record: dict[str, Any] = {
        "command": shown_command("memory.py"),
        "seed": 0,
        "network": NATURAL,
        "unit": "MB of resident memory above the start, peak; images are cut to 16x16x3 float32",
        "environment": environment(),
        "attacks": {},
    }
    for name in options.only or [entry.name for entry in ATTACKS]:
        found = {f"n={n},batch_size={b}": peak(options.root, name, n, b) for n, b in CASES}
        small, large = found["n=8,batch_size=4"], found["n=32,batch_size=4"]
        found["copies_of_an_image_held"] = (large - small) / (24 * image)
        record["attacks"][name] = found
        print(name, {k: round(v, 1) for k, v in found.items()}, flush=True)
        write_json(options.out, record)


if __name__ == "__main__":
    main()
