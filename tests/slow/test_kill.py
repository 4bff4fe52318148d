"""A demo that is killed at random moments and started again gives the same record.

pytest -m slow tests/slow/test_kill.py
"""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = [sys.executable, "-c", "from redoubtable.cli import main; main()", "demo", "--out"]


def finish(out: Path) -> bytes:
    subprocess.run([*DEMO, str(out)], check=True, capture_output=True)
    return (out / "record.json").read_bytes()


def whole_files(out: Path) -> dict[str, bytes]:
    return {str(p.relative_to(out)): p.read_bytes() for p in out.rglob("*.cell")}


@pytest.mark.slow
def test_killed_three_times_the_demo_gives_the_same_record(tmp_path: Path) -> None:
    started = time.monotonic()
    expected = finish(tmp_path / "whole")
    took = time.monotonic() - started
    moments = sorted(random.Random(0).uniform(0.05, 0.9) * took for _ in range(3))
    out, before = tmp_path / "killed", 0.0
    for moment in moments:
        run = subprocess.Popen(
            [*DEMO, str(out)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            run.wait(timeout=moment - before)
            pytest.fail("the demo ended before it could be killed")
        except subprocess.TimeoutExpired:
            run.send_signal(signal.SIGKILL)
        run.wait()
        before = moment
        assert not (out / "record.json").exists()
    kept = whole_files(out)
    assert kept, "nothing was kept that a resumed run could use"
    assert finish(out) == expected
    # What was finished before a kill was used and not computed again.
    assert {name: content for name, content in whole_files(out).items() if name in kept} == kept
