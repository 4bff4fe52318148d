"""Training that is killed at random moments and started again ends in the same weights.

pytest -n 0 -m slow tests/slow/test_kill_training.py
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TRAIN = [sys.executable, "-m", "redoubtable", "train", "--device", "cpu", "--epochs", "12"]
TRAIN += ["--batch-size", "32", "--ema", "0.9", "--recipe", "pgd:threat=Linf:0.1,steps=3"]


def finish(out: Path) -> bytes:
    subprocess.run([*TRAIN, "--out", str(out)], check=True, capture_output=True)
    return (out / "model.safetensors").read_bytes()


@pytest.mark.slow
def test_killed_five_times_the_training_ends_in_the_same_weights(tmp_path: Path) -> None:
    started = time.monotonic()
    expected = finish(tmp_path / "whole")
    took = time.monotonic() - started
    out, random_moments, kept = tmp_path / "killed", random.Random(0), []
    for _ in range(5):
        run = subprocess.Popen(
            [*TRAIN, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        # Half of the time goes by before the first step, in imports.
        try:
            run.wait(timeout=took * random_moments.uniform(0.35, 0.65))
            pytest.fail("the training ended before it could be killed")
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
        run.wait()
        log = out / "train.jsonl"
        kept.append(len(log.read_text().splitlines()) if log.exists() else 0)
    assert kept == sorted(kept) and 0 < kept[-1] < 12, kept
    assert finish(out) == expected
    assert len((out / "train.jsonl").read_text().splitlines()) == 12
