"""How much sooner an evaluation ends in two processes on two cores than in one on one core.

Paired (see timing.py): each round runs the whole command once in each way, its start and the
writing of its page included, in a new folder. One thread a process. The records must be the same.

    python benchmarks/evaluation.py zoo/cifar10-resnet20-natural --root DATA \
        --out results/evaluation.json
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from attacks import shown_command
from timing import rounds

from redoubtable.evaluation import environment
from redoubtable.files import write_json

ATTACKS = ("pgd:steps=20", "apgd:steps=20")


def run(options: argparse.Namespace, processes: int) -> dict[str, Any]:
    """One evaluation with a core for each process; returns its record, the command left out."""
    cores = sorted(os.sched_getaffinity(0))[:processes]
    if len(cores) < processes:
        raise SystemExit(f"needs {processes} cores, there is {len(cores)}")
    command = [sys.executable, "-m", "redoubtable", "evaluate", options.model]
    command += ["--threat", options.threat, "--limit", str(options.images), "--device", "cpu"]
    command += ["--chunk", str(options.chunk), "--processes", str(processes)]
    command += [word for attack in ATTACKS for word in ("--attack", attack)]
    command += ["--root", str(options.root)] if options.root else []
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            [*command, "--out", folder],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            preexec_fn=lambda: os.sched_setaffinity(0, cores),
        )
        record: dict[str, Any] = json.loads((Path(folder) / "record.json").read_text())
    return {**record, "command": None}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--root", type=Path)
    parser.add_argument("--threat", default="Linf:1/255")
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--chunk", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("results/evaluation.json"))
    options = parser.parse_args()
    records: dict[int, Any] = {}

    def contender(processes: int) -> None:
        record = run(options, processes)
        if records.setdefault(1, record) != record:
            raise SystemExit(f"{processes} processes gave another record")

    ways = {"one": lambda: contender(1), "two": lambda: contender(2)}
    seconds = rounds(ways, options.repeats)
    ratios = [one / two for one, two in zip(seconds["one"], seconds["two"], strict=True)]
    write_json(
        options.out,
        {
            "command": shown_command("evaluation.py"),
            "model": options.model,
            "threat": options.threat,
            "attacks": ATTACKS,
            "n": options.images,
            "chunk": options.chunk,
            "seed": records[1]["settings"]["seed"],
            "threads": 1,
            "seconds": seconds,
            "times_one_process": statistics.median(ratios),
            "ratios": ratios,
            "environment": environment(),
        },
    )
    print(f"two processes: {statistics.median(ratios):.2f} times one ({sorted(ratios)})")


if __name__ == "__main__":
    main()
