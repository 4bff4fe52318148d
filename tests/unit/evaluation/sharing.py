"""What each of the processes of test_sharing.py does, in the folder that it names."""

import os
import signal
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch

from redoubtable.attacks import ATTACKS, pgd
from redoubtable.evaluation import SUITES, Evaluation, Settings, evaluate
from redoubtable.evaluation.suites import Line, Suite
from redoubtable.files import locked, write_json
from redoubtable.threat import Linf
from tests.networks import blobs, small_net
from tests.unit.evaluation.parts import models

RANK, COUNT = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
CALLS: list[int] = []
END = {"do": "nothing"}
BALL = Linf(0.05)


@ATTACKS.register("moody", threats=(Linf,), access="gradient")
def moody(model: Any, x: Any, y: Any, threat: Any, *, targets: Any = None, steps: int = 2) -> Any:
    """Do as PGD does; in the second process fail, or be killed, at the second chunk."""
    CALLS.append(len(x))
    if RANK == 1 and len(CALLS) == 2:
        if END["do"] == "fail":
            raise ValueError("`x` is not to its liking")
        if END["do"] == "die":
            os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(0.1)  # so that everybody gets some
    return pgd(model, x, y, threat, steps=steps)


def run(name: str, attacks: Any, out: Path | None = None, **more: Any) -> Evaluation:
    """An evaluation in small chunks."""
    x = blobs(22)
    with torch.no_grad():
        y = small_net()(x).argmax(1)
    arguments = {"settings": Settings(chunk=4, draws=3), "curve": (), "check": False} | more
    return evaluate(models()[name], x, y, BALL, attacks, out=out, **arguments)


def refused(make: Any) -> str:
    try:
        make()
    except ValueError as error:
        return str(error)
    return "not refused"


def given(model: Any, x: Any, y: Any, threat: Any, *, targets: Any = None) -> Any:
    """A function that the journal can't name."""
    return pgd(model, x, y, threat, steps=1)


def keep(done: Evaluation, stem: Path) -> None:
    write_json(stem.with_suffix(".json"), done.record)
    np.savez(stem.with_suffix(".npz"), **done.arrays, **done.images)


def shared(folder: Path) -> None:
    """Evaluations whose results must not depend on who did what."""
    SUITES["falling"] = Suite(tuple(map(Line, ("fgsm", "moody", "pgd:steps=3"))), True, "Three.")  # type: ignore[index]
    runs: dict[str, Any] = {
        "abstaining": lambda: run(
            "abstaining", "moody", held_out=blobs(40, seed=4), curve=(0.5, 1.5), check=True
        ),
        "curve": lambda: run("deterministic", "moody", curve=(0.5, 1.5)),
        "random": lambda: run("random", ["pgd:steps=2", given], folder / "random"),
        "cascade": lambda: run("deterministic", "falling", folder / "cascade"),
        "apart": lambda: run("vote", "moody", folder / "apart", journal=folder / "journal"),
        "nowhere": lambda: run("deterministic", "moody", journal=folder / "journal"),
    }
    for name, make in runs.items():
        CALLS.clear()
        keep(make(), folder / f"{RANK} {name}")
        write_json(folder / f"{RANK} {name} calls.json", len(CALLS))


def several(folder: Path) -> None:
    """What goes wrong in one process is known to all; the last one loses the second process."""
    END["do"] = "fail"
    CALLS.clear()
    about = {"failed": refused(lambda: run("deterministic", "moody", folder / "failed"))}
    END["do"] = "nothing"
    keep(run("deterministic", "moody", folder / "failed"), folder / f"{RANK} mended")
    with locked(folder / "held", "evaluation") if RANK == 0 else nullcontext():
        about["held"] = refused(lambda: run("deterministic", "fgsm", folder / "held"))
    torch.set_num_threads(1 + RANK % 2)
    about["differ"] = refused(lambda: run("deterministic", "fgsm"))
    torch.set_num_threads(1)
    write_json(folder / f"{RANK} about.json", about)
    END["do"] = "die"
    CALLS.clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        keep(run("deterministic", "moody", folder / "killed"), folder / f"{RANK} left")
    write_json(folder / f"{RANK} said.json", [str(one.message) for one in said])


def alone(folder: Path, others: list[str]) -> None:
    """Go on where several processes were cut off."""
    keep(run("deterministic", "moody", folder / "failed"), folder / "0 mended")
    CALLS.clear()
    for other in others:
        keep(run("deterministic", "moody", Path(other) / "killed"), Path(other) / "resumed")
    write_json(folder / "0 resumed calls.json", len(CALLS))


if __name__ == "__main__":
    where = Path(sys.argv[1])
    shared(where)
    several(where) if COUNT > 1 else alone(where, sys.argv[2:])
