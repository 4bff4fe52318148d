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


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_in_one_line_and_the_first_goes_on(
    tmp_path: Path,
) -> None:
    command = [*TRAIN, "--out", str(tmp_path), "--epochs", "1000"]
    first = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not rows(tmp_path):
            assert first.poll() is None, "the training ended by itself"
            time.sleep(0.01)
        second = subprocess.run(command, capture_output=True, text=True)
        lines = [line for line in second.stderr.splitlines() if line.startswith("redoubt: ")]
        assert second.returncode == 2 and len(lines) == 1, second.stderr
        assert f"in use by the training of process {first.pid} " in lines[0]
        kept = len(rows(tmp_path))
        while len(rows(tmp_path)) <= kept:
            assert first.poll() is None, "the training ended by itself"
            time.sleep(0.01)
    finally:
        first.kill()
        first.wait()
    assert [row["epoch"] for row in rows(tmp_path)] == list(range(1, len(rows(tmp_path)) + 1))
