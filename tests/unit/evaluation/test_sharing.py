"""Several processes give the results of one, whoever does what, fails or is killed."""

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

GROUPS = (3,)  # of two in tests/slow/test_kill_evaluation.py: each process costs seconds
NAMES = ("abstaining", "curve", "random", "cascade", "apart", "nowhere")


def start(count: int, *arguments: Path) -> list[subprocess.Popen[str]]:
    """Start `sharing.py` in a group of processes, as torchrun does."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": count, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    return [
        subprocess.Popen(
            [sys.executable, "-m", "tests.unit.evaluation.sharing", *map(str, arguments)],
            env=os.environ
            | {k: str(v) for k, v in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
            | {"OMP_NUM_THREADS": "1"},
            cwd=Path(__file__).parents[3],
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def ended(group: list[subprocess.Popen[str]]) -> list[tuple[int, str]]:
    """Exit code and error stream of each."""
    try:
        errors = [one.communicate(timeout=300)[1] for one in group]
    finally:
        for one in group:
            one.kill()
    return [(one.returncode, error) for one, error in zip(group, errors, strict=True)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """What one, two and three processes wrote; the second one of each group was killed."""
    folders = {count: tmp_path_factory.mktemp(f"of {count}") for count in (1, *GROUPS)}
    for count in GROUPS:
        ends = ended(start(count, folders[count]))
        assert ends[1][0] == -signal.SIGKILL, ends
        assert all(code == 0 for rank, (code, _) in enumerate(ends) if rank != 1), ends
    ends = ended(start(1, folders[1], *(folders[count] for count in GROUPS)))
    assert ends[0][0] == 0, ends
    return folders


def told(path: Path) -> Any:
    return json.loads(path.read_text())


def assert_same(one: Path, other: Path) -> None:
    assert one.with_suffix(".json").read_bytes() == other.with_suffix(".json").read_bytes()
    with np.load(one.with_suffix(".npz")) as a, np.load(other.with_suffix(".npz")) as b:
        assert a.files == b.files and len(a.files) > 5
        assert all(np.array_equal(a[name], b[name]) for name in a.files)


@pytest.mark.parametrize("count", GROUPS)
@pytest.mark.parametrize("name", NAMES)
def test_every_process_has_the_results_of_one_bit_for_bit(
    folders: dict[int, Path], name: str, count: int
) -> None:
    for rank in range(count):
        assert_same(folders[1] / f"0 {name}", folders[count] / f"{rank} {name}")


@pytest.mark.parametrize("count", GROUPS)
@pytest.mark.parametrize("name", ["curve", "cascade", "apart", "nowhere"])
def test_the_work_is_shared_and_nothing_is_done_twice(
    folders: dict[int, Path], name: str, count: int
) -> None:
    alone = told(folders[1] / f"0 {name} calls.json")
    calls = [told(folders[count] / f"{rank} {name} calls.json") for rank in range(count)]
    assert sum(calls) == alone > 0, (calls, alone)
    assert name == "cascade" or min(calls) > 0, calls


@pytest.mark.parametrize("count", GROUPS)
def test_the_first_process_keeps_the_record(folders: dict[int, Path], count: int) -> None:
    for name in ("random", "cascade"):
        for file in ("record.json", "examples.npz", "images.npz"):
            kept = [folders[n] / name / file for n in (1, count)]
            assert kept[0].read_bytes() == kept[1].read_bytes()
        assert not list((folders[count] / name).rglob(".*")), "claims or locks were left"
    assert list((folders[count] / "journal").glob("*.cell"))
    assert not (folders[count] / "apart" / "journal").exists()


@pytest.mark.parametrize("count", GROUPS)
def test_what_one_process_fails_at_ends_all_and_can_be_mended(
    folders: dict[int, Path], count: int
) -> None:
    for rank in range(count):
        said = told(folders[count] / f"{rank} about.json")["failed"]
        line = "`x` is not to its liking"
        assert said == (line if rank == 1 else f"process 1 of the evaluation has failed: {line}")
        assert_same(folders[1] / "0 mended", folders[count] / f"{rank} mended")


@pytest.mark.parametrize("count", GROUPS)
def test_a_folder_in_use_and_processes_that_differ_are_refused_by_all(
    folders: dict[int, Path], count: int
) -> None:
    for rank in range(count):
        about = told(folders[count] / f"{rank} about.json")
        assert "is in use by the evaluation of process" in about["held"]
        assert "differ in their threads (set OMP_NUM_THREADS): 1, 2;" in about["differ"]


@pytest.mark.parametrize("count", GROUPS)
def test_the_others_take_over_what_a_killed_process_had_claimed(
    folders: dict[int, Path], count: int
) -> None:
    for rank in {*range(count)} - {1}:
        said = told(folders[count] / f"{rank} said.json")
        assert [line for line in said if "has ended before the others, which did its work" in line]
        assert_same(folders[1] / "0 mended", folders[count] / f"{rank} left")
    assert_same(folders[1] / "0 mended", folders[count] / "resumed")
    assert told(folders[1] / "0 resumed calls.json") == 0
