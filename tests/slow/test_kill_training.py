"""Training that is killed at random moments and started again ends in the same weights.

pytest -n 0 -m slow tests/slow/test_kill_training.py
"""

import json
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


def rows(out: Path) -> list[dict[str, float]]:
    log = out / "train.jsonl"
    return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@pytest.mark.slow
def test_killed_five_times_the_training_ends_in_the_same_weights(tmp_path: Path) -> None:
    expected = finish(tmp_path / "whole")
    out, random_moments, kept = tmp_path / "killed", random.Random(0), []
    for wanted in (1, 3, 5, 7, 9):  # epochs that are kept; how fast they go differs with the load
        run = subprocess.Popen(
            [*TRAIN, "--out", str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while len(rows(out)) < wanted:
            assert run.poll() is None, "the training ended by itself"
            time.sleep(0.01)
        time.sleep(random_moments.uniform(0, 1.5) * rows(out)[-1]["seconds"])
        assert run.poll() is None, "the training ended before it could be killed"
        run.send_signal(signal.SIGKILL)
        run.wait()
        kept.append(len(rows(out)))
    assert kept == sorted(kept) and 9 <= kept[-1] < 12, kept
    assert finish(out) == expected
    assert [row["epoch"] for row in rows(out)] == list(range(1, 13))
