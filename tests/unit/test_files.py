"""Files that are whole or not there."""

import errno
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from redoubtable import files
from redoubtable.files import (
    digest_model,
    digest_tensors,
    locked,
    make_folder,
    read_json,
    read_sealed,
    write_bytes,
    write_json,
    write_sealed,
)
from tests.networks import small_net


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "a.bin"
    write_bytes(path, b"abc")
    assert path.read_bytes() == b"abc"
    write_bytes(path, b"")
    assert path.read_bytes() == b""
    write_json(tmp_path / "a.json", {"b": [1, None, "ü"], "a": 0.1})
    assert read_json(tmp_path / "a.json", "record") == {"b": [1, None, "ü"], "a": 0.1}
    foreign = "caf\udce9"  # a file name whose bytes are no UTF-8
    write_json(tmp_path / "b.json", {"class": foreign})
    assert read_json(tmp_path / "b.json", "record") == {"class": foreign}
    write_sealed(tmp_path / "a.cell", b"\x00" * 100)
    assert read_sealed(tmp_path / "a.cell", "cell") == b"\x00" * 100
    write_sealed(tmp_path / "a.cell", b"")
    assert read_sealed(tmp_path / "a.cell", "cell") == b""


@pytest.mark.parametrize("step", ["fsync", "replace", "chmod"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.bin"
    write_bytes(path, b"old")

    def fail(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(files.os, step, fail)
    with pytest.raises(KeyboardInterrupt):
        write_bytes(path, b"new" * 1000)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_failure_at_the_first_write_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(files.os, "fsync", fail)
    with pytest.raises(OSError, match="no space"):
        write_bytes(tmp_path / "a.bin", b"new")
    assert os.listdir(tmp_path) == []


def test_a_reader_never_sees_half_a_file_while_a_writer_is_killed(tmp_path: Path) -> None:
    """A writer alternates between two long contents and is killed in the middle of it."""
    path = tmp_path / "a.bin"
    code = (
        "import sys; from pathlib import Path; from redoubtable.files import write_bytes\n"
        "path = Path(sys.argv[1])\n"
        "while True:\n"
        "    write_bytes(path, b'a' * 4_000_000); write_bytes(path, b'b' * 4_000_000)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, str(path)])
    try:
        deadline = time.monotonic() + 60
        while not path.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        seen = set()
        for _ in range(20):
            content = path.read_bytes()
            assert len(content) == 4_000_000
            seen.add(content[:1])
            assert content == content[:1] * 4_000_000
            time.sleep(0.01)
    finally:
        writer.kill()
        writer.wait()
    content = path.read_bytes()
    assert content == content[:1] * 4_000_000


def test_files_are_readable_by_others_as_the_umask_says(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        write_bytes(tmp_path / "a.bin", b"x")
    finally:
        os.umask(old)
    assert (tmp_path / "a.bin").stat().st_mode & 0o777 == 0o640
    assert os.umask(old) == old


@pytest.mark.parametrize("value", [math.nan, math.inf, [1, {"a": -math.inf}]])
def test_json_refuses_what_other_readers_cannot_read(tmp_path: Path, value: object) -> None:
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json", "record") == 1


def test_missing_and_damaged_json_is_said_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no record at .*a\.json"):
        read_json(tmp_path / "a.json", "record")
    for damage in (b'{"a": ', b"\xff\xfe", b""):
        (tmp_path / "a.json").write_bytes(damage)
        with pytest.raises(ValueError, match=r"the record at .*a\.json is damaged") as caught:
            read_json(tmp_path / "a.json", "record")
        assert "\n" not in str(caught.value)
    with pytest.raises(ValueError, match="record"):
        read_json(tmp_path, "record")


@pytest.mark.parametrize("at", [0, 5, 25, 40, 60, -1])
def test_a_changed_byte_in_a_sealed_file_is_noticed(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.cell"
    write_sealed(path, b"content" * 10)
    raw = bytearray(path.read_bytes())
    raw[at] ^= 1
    path.write_bytes(bytes(raw))
    with pytest.raises(ValueError, match=r"the cell at .*a\.cell is damaged"):
        read_sealed(path, "cell")


@pytest.mark.parametrize("length", [0, 3, 21, 30, 53, 60])
def test_a_sealed_file_cut_short_is_noticed(tmp_path: Path, length: int) -> None:
    path = tmp_path / "a.cell"
    write_sealed(path, b"content" * 10)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ValueError, match="damaged"):
        read_sealed(path, "cell")


def test_a_longer_or_a_missing_sealed_file_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.cell"
    write_sealed(path, b"content")
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(ValueError, match="damaged"):
        read_sealed(path, "cell")
    with pytest.raises(ValueError, match="cannot read the cell"):
        read_sealed(tmp_path / "none.cell", "cell")


def test_folders_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    """A file stands where the folder should; root may write anywhere else."""
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ValueError, match=r"cannot write to the folder .*file") as caught:
            make_folder(folder)
        assert "choose another" in str(caught.value)
        assert "\n" not in str(caught.value)
        with pytest.raises(ValueError, match="cannot write"):
            write_bytes(folder / "a.bin", b"x")
    assert (tmp_path / "file").read_text() == "x"


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_folders_without_permission_are_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(ValueError, match="cannot write"):
            make_folder(tmp_path)
        with pytest.raises(ValueError, match="cannot write"):
            make_folder(tmp_path / "below")
    finally:
        tmp_path.chmod(0o755)


def test_making_a_folder_leaves_nothing_in_it(tmp_path: Path) -> None:
    assert make_folder(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert os.listdir(tmp_path / "a" / "b") == []


# -- locks ---------------------------------------------------------------------------------------

HOLD = """
import sys
from pathlib import Path
from redoubtable.files import locked
while True:
    with locked(Path(sys.argv[1]), "training"):
        print("held", flush=True)
        sys.stdin.readline()
    print("free", flush=True)
    sys.stdin.readline()
"""


def test_a_folder_that_another_process_holds_is_refused_until_it_lets_go_or_dies(
    tmp_path: Path,
) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
    )  # fmt: skip
    assert run.stdin is not None and run.stdout is not None
    try:
        assert run.stdout.readline() == "held\n"
        for _ in range(2):  # a refusal takes nothing from the one that holds it
            said = rf"{tmp_path} is in use by the training of process {run.pid} on .*; wait"
            with pytest.raises(ValueError, match=said) as caught, locked(tmp_path, "training"):
                pass
            assert "\n" not in str(caught.value)
        with locked(tmp_path / "below", "training"):  # another folder is nobody's
            pass
        run.stdin.write("\n")
        assert run.stdout.readline() == "free\n"
        with locked(tmp_path, "training"):
            pass
        assert os.listdir(tmp_path) == ["below"]
        run.stdin.write("\n")
        assert run.stdout.readline() == "held\n"
    finally:
        run.kill()
        run.communicate()
    assert (
        f"process {run.pid} " in (tmp_path / ".lock").read_text()
    )  # it is left, and holds nothing
    with locked(tmp_path, "training"):
        assert f"process {os.getpid()} " in (tmp_path / ".lock").read_text()
    assert os.listdir(tmp_path) == ["below"]


def test_a_process_refuses_itself_by_whatever_name(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "run")
    with locked(tmp_path / "run", "training"):
        for name in ("run", "link", "run/../run"):
            with (
                pytest.raises(ValueError, match="in use by the training"),
                locked(tmp_path / name, "storing"),
            ):
                pass
    with pytest.raises(ZeroDivisionError), locked(tmp_path / "run", "training"):
        raise ZeroDivisionError
    with locked(tmp_path / "run", "training"):
        pass


def test_a_lock_file_taken_away_while_it_was_waited_for_is_no_lock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between opening and locking, its holder let go and took it away."""
    lockf, taken = files.fcntl.lockf, []

    def late(handle: int, how: int) -> None:
        lockf(handle, how)
        if not taken:
            taken.append(handle)
            (tmp_path / ".lock").unlink()

    monkeypatch.setattr(files.fcntl, "lockf", late)
    with locked(tmp_path, "training"):
        assert (tmp_path / ".lock").read_text()  # one of a file that others see
    assert taken


@pytest.mark.parametrize("missing", ["platform", "file system"])
def test_without_locks_work_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if missing == "platform":
        monkeypatch.setattr(files, "fcntl", None)
    else:
        monkeypatch.setattr(files.fcntl, "lockf", none)
    with locked(tmp_path, "training"):
        pass
    assert os.listdir(tmp_path) == []


# -- digests -------------------------------------------------------------------------------------


def test_digests_of_tensors_see_values_shapes_types_and_order() -> None:
    a = torch.arange(6.0)
    kinds = [
        (a,), (a.view(2, 3),), (a.view(3, 2),), (a.double(),), (a.int(),), (a + 1e-6,),
        (a, a), (a[:3], a[3:]), (a[3:], a[:3]), (),
    ]  # fmt: skip
    assert len({digest_tensors(*k) for k in kinds}) == len(kinds)
    assert digest_tensors(a) == digest_tensors(a.clone())
    assert digest_tensors(a.view(2, 3).T) == digest_tensors(a.view(2, 3).T.contiguous())
    assert digest_tensors(torch.tensor(True), torch.zeros(2).bfloat16(), torch.tensor(3))


def test_digests_of_models_see_weights_buffers_and_structure() -> None:
    base = small_net()
    digests = {digest_model(base)}
    assert digest_model(small_net()) in digests
    digests.add(digest_model(small_net(seed=1)))
    changed = small_net()
    changed.bn1.running_mean[0] += 1e-3
    digests.add(digest_model(changed))
    changed = small_net()
    changed.act = nn.Tanh()
    digests.add(digest_model(changed))
    digests.add(digest_model(nn.Sequential(small_net())))
    assert len(digests) == 5


@dataclass
class Law:
    rate: float
    act: Any = torch.relu


class Holds(nn.Module):
    """Keeps what it computes with in an attribute of any kind."""

    def __init__(self, what: Any) -> None:
        super().__init__()
        self.what = what


def test_digests_of_models_see_functions_and_dataclasses() -> None:
    """Evaluations that share a journal must not take one such model for another."""

    def kinds() -> list[Any]:
        return [
            torch.relu, torch.tanh, Law(0.5), Law(0.6), Law(0.5, torch.tanh),
            partial(torch.clamp, min=0), partial(torch.clamp, min=1), lambda v: 2 * v, nn.ReLU,
        ]  # fmt: skip

    digests = [digest_model(Holds(kind)) for kind in kinds()]
    assert len(set(digests)) == len(digests)
    assert [digest_model(Holds(kind)) for kind in kinds()] == digests
    assert digest_model(Holds(object())) == digest_model(Holds(object()))


class HoldsFunctions(nn.Module):
    """Keeps functions in a list, whose text names where they lie in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.net = small_net()
        self.steps = [torch.relu, lambda v: 2 * v, object()]


def test_digests_of_models_do_not_depend_on_where_things_lie_in_memory() -> None:
    """Else a killed run of such a model never goes on where it stood."""
    kept = [HoldsFunctions() for _ in range(5)]
    assert len({digest_model(m) for m in kept}) == 1
