"""Evaluations killed at random moments, one process and two, end in the record of a quiet one.

pytest -n 0 -m slow tests/slow/test_kill_evaluation.py
"""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ZOO = Path(__file__).parents[2] / "zoo" / "digits-cnn"
EVALUATE = [sys.executable, "-m", "redoubtable", "evaluate", str(ZOO), "--threat", "Linf:0.1"]
EVALUATE += ["--limit", "30", "--chunk", "10", "--device", "cpu", "--attack", "pgd:steps=10"]
EVALUATE += [
    "--attack",
    "square:queries=20",
    "--defense",
    "subsample:rate=0.9",
    "--draws",
    "2",
    "--no-check",
]
KILLS = 5  # of one process, and as many of two


def start(out: Path, processes: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        # The command is part of the record, so all runs have the same: a link tells them apart.
        [*EVALUATE, "--processes", str(processes), "--out", "run"],
        cwd=out,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def fellows(first: int) -> list[int]:
    """The processes that a process has started."""
    text = Path(f"/proc/{first}/task/{first}/children").read_text()
    return [int(word) for word in text.split()]


def finish(out: Path, processes: int) -> None:
    run = start(out, processes)
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors.decode()


def cells(out: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (out / "run" / "journal").glob("*.cell")}


def assert_same(one: Path, other: Path, instead: tuple[bytes, bytes]) -> None:
    first, second = ((p / "run" / "record.json").read_bytes() for p in (one, other))
    assert first == second.replace(*instead)
    with np.load(one / "run" / "examples.npz") as a, np.load(other / "run" / "examples.npz") as b:
        assert a.files == b.files
        assert all(np.array_equal(a[name], b[name]) for name in a.files)


@pytest.fixture(scope="module")
def quiet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What one process gives that nobody disturbs."""
    folder = tmp_path_factory.mktemp("quiet")
    finish(folder, 1)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
def test_killed_five_times_an_evaluation_gives_the_same_record(
    quiet: Path, tmp_path: Path, processes: int
) -> None:
    draw, total, kept = random.Random(processes), len(cells(quiet)), [0]
    for number in range(KILLS):
        # By what is kept, not by the clock: how fast it goes differs with the load.
        wanted = int(total * (number + draw.uniform(0.1, 0.9)) / KILLS)
        run = start(tmp_path, processes)
        # What earlier runs have kept is there before the second process is.
        while len(cells(tmp_path)) < wanted or len(fellows(run.pid)) < processes - 1:
            assert run.poll() is None, run.communicate()[1].decode()
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.1))
        before = cells(tmp_path)
        victims = [run.pid, *fellows(run.pid)]
        assert len(victims) == processes
        for pid in victims[: 1 + number % 2]:  # the second ends with the first, killed or not
            os.kill(pid, signal.SIGKILL)
        run.communicate(timeout=600)
        after = cells(tmp_path)
        assert all(after[name] == content for name, content in before.items())
        kept.append(len(after))
    assert kept == sorted(kept) and kept[1] > 0, kept
    finish(tmp_path, processes)
    words = (f"--processes {processes}".encode(), b"--processes 1")
    assert_same(quiet, tmp_path, words)
    assert cells(tmp_path) == cells(quiet)


@pytest.mark.slow
def test_the_first_process_does_the_work_of_a_killed_second(quiet: Path, tmp_path: Path) -> None:
    run = start(tmp_path, 2)
    while len(cells(tmp_path)) < len(cells(quiet)) // 3:
        assert run.poll() is None, run.communicate()[1].decode()
        time.sleep(0.01)
    for pid in fellows(run.pid):
        os.kill(pid, signal.SIGKILL)
    _, errors = run.communicate(timeout=600)
    assert run.returncode == 0, errors.decode()
    assert "warning: a process of the evaluation has ended before the others" in errors.decode()
    assert_same(quiet, tmp_path, (b"--processes 2", b"--processes 1"))


@pytest.mark.slow
def test_a_second_run_in_the_folder_is_refused_in_one_line_and_the_first_goes_on(
    quiet: Path, tmp_path: Path
) -> None:
    first = start(tmp_path, 2)
    while not cells(tmp_path):
        assert first.poll() is None, first.communicate()[1].decode()
        time.sleep(0.01)
    second = start(tmp_path, 1)
    _, errors = second.communicate(timeout=300)
    lines = [line for line in errors.decode().splitlines() if line.startswith("redoubt: ")]
    assert second.returncode == 2 and len(lines) == 1, errors.decode()
    assert f"in use by the evaluation of process {first.pid} " in lines[0]
    _, errors = first.communicate(timeout=600)
    assert first.returncode == 0, errors.decode()
    assert_same(quiet, tmp_path, (b"--processes 2", b"--processes 1"))


@pytest.mark.slow
def test_a_cut_cell_is_told_in_one_line_and_alone_computed_again(
    quiet: Path, tmp_path: Path
) -> None:
    finish(tmp_path, 1)
    cell = sorted((tmp_path / "run" / "journal").glob("*.cell"))[3]
    times = {p: p.stat().st_mtime_ns for p in cell.parent.glob("*.cell")}
    cell.write_bytes(cell.read_bytes()[:-40])
    run = start(tmp_path, 1)
    _, errors = run.communicate(timeout=600)
    lines = [line for line in errors.decode().splitlines() if line.startswith("redoubt: warning")]
    assert run.returncode == 0 and len(lines) == 1 and cell.name in lines[0], errors.decode()
    assert_same(quiet, tmp_path, (b"", b""))
    assert [p for p in times if p.stat().st_mtime_ns != times[p]] == [cell]
