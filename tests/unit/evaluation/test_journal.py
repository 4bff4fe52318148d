"""What a cell is named by, and who may compute it."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import redoubtable
from redoubtable import files
from redoubtable.evaluation import candidates, outcomes
from redoubtable.evaluation.journal import Journal
from redoubtable.evaluation.turns import TakenError, all_of, finish
from redoubtable.files import claimed, digest_package
from redoubtable.threat import Linf
from tests.unit.evaluation.parts import Register, count, hidden, quick

ROOT = Path(redoubtable.__file__).parent
EXCLUDED = candidates._NO_PART_OF_A_CELL
REACHED = (
    "attacks/pgd.py", "attacks/apgd_rules.py", "threat/base.py", "gradients/slopes.py", "losses.py",
    "defenses/voting.py", "detectors/scores.py", "parts.py", "seeding.py", "models/normalize.py",
    "evaluation/candidates.py", "evaluation/outcomes.py",
)  # fmt: skip
UNREACHED = ("reports/html.py", "cli/evaluate.py", "training/run.py", "evaluation/summary.py")


def test_a_change_of_any_source_that_an_attack_reaches_has_another_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT, tmp_path / "redoubtable", ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(files, "__file__", str(tmp_path / "redoubtable" / "files.py"))

    def digest() -> str:
        return digest_package.__wrapped__(EXCLUDED)

    for changed, names in ((True, REACHED), (False, UNREACHED)):
        for name in names:
            before = digest()
            with (tmp_path / "redoubtable" / name).open("a") as file:
                file.write("# another thought\n")
            assert (digest() != before) is changed, name
    before = digest()
    (tmp_path / "redoubtable" / "attacks" / "new.py").touch()
    assert digest() != before


def imported(path: Path) -> set[Path]:
    """Files of the package that a file imports from."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("redoubtable"):
            place = ROOT.joinpath(*(node.module or "").split(".")[1:])
            for name in ("", *(alias.name for alias in node.names)):
                both = ((place / name).with_suffix(".py"), place / name / "__init__.py")
                found |= {file for file in both if file.exists()}
    return found


def test_nothing_that_is_left_out_of_the_digest_is_imported_by_what_makes_a_cell() -> None:
    todo, seen = [ROOT / "evaluation" / "candidates.py"], set()
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            todo += imported(path)
    names = {path.relative_to(ROOT).with_suffix("").as_posix() for path in seen}
    assert {"attacks/pgd", "threat/l0", "gradients/slopes", "evaluation/outcomes"} <= names
    for name in EXCLUDED:
        assert not [n for n in names if n == name or n.startswith(f"{name}/")], name


def test_cells_of_another_source_are_not_used(
    register: Register, net: nn.Module, x: Tensor, y: Tensor, tmp_path: Path, monkeypatch: Any
) -> None:
    calls = count(register)
    for number, expected in (("1", 1), ("1", 1), ("2", 2), ("1", 2)):
        monkeypatch.setattr(candidates, "digest_package", lambda without, number=number: number)
        quick(net, x, y, Linf(0.05), "counted", out=tmp_path)
        assert len(calls) == expected


def test_a_cell_names_no_number_of_a_device(net: nn.Module, x: Tensor, y: Tensor) -> None:
    """What one process has computed on the second device, another one reads on the first."""
    assert candidates.hardware(torch.device("cpu")) == "cpu"
    data = candidates.Chunks(x, y, 15)
    bench = candidates.Bench(net, data, candidates.Settings(chunk=15), Journal(None))
    key = bench._key(candidates.Piece(1, "clean", "", None, np.arange(15), None), None)
    assert key["device"] == "cpu" and key["start"] == 15


def test_a_cell_is_named_by_what_stood_before(net: nn.Module, x: Tensor, y: Tensor) -> None:
    data = candidates.Chunks(x, y, 30)
    bench = candidates.Bench(net, data, candidates.Settings(), Journal(None))
    bars = [outcomes.Bar(4, np.full(30, n), np.full(30, m)) for n, m in ((2, 2), (2, 1), (1, 1))]
    pieces = [
        candidates.Piece(0, "adaptive", "fgsm", Linf(0.1), np.arange(30), bar)
        for bar in (None, *bars)
    ]
    keys = {json.dumps(dict(bench._key(piece, None)), default=str) for piece in pieces}
    assert len(keys) == 4


def test_evaluations_that_share_a_journal_look_at_clean_images_once(
    tmp_path: Path, x: Tensor, y: Tensor
) -> None:
    def run(eps: float, folder: Path | None) -> Any:
        out = folder and tmp_path / f"{eps:g}"
        return quick(hidden(), x, y, Linf(eps), "fgsm", out=out, journal=folder)

    def cells() -> int:
        return len(list((tmp_path / "both").glob("*.cell")))

    run(0.1, tmp_path / "both")
    one = cells()
    shared = run(0.2, tmp_path / "both")
    chunks = 1
    assert cells() == 2 * one - chunks
    assert not (tmp_path / "0.2" / "journal").exists()
    alone = run(0.2, None)
    assert all(np.array_equal(shared.arrays[k], v) for k, v in alone.arrays.items())


HOLDER = """
import sys
from pathlib import Path
from redoubtable.files import claimed
with claimed(Path(sys.argv[1])) as mine:
    print(mine, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def cell(tmp_path: Path) -> Path:
    return tmp_path / "a.cell"


@pytest.fixture
def holder(cell: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that has claimed a cell."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(cell)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None and process.stdout.readline() == b"True\n"
    yield process
    process.kill()
    process.wait()


def test_a_claim_ends_with_its_process(
    cell: Path, holder: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    with claimed(cell) as mine:
        assert not mine
    holder.kill()
    holder.wait()
    assert os.listdir(tmp_path) == ["a.cell.claim"]  # what a kill leaves holds nothing
    with claimed(cell) as mine:
        assert mine
    assert os.listdir(tmp_path) == []


def test_who_waits_for_a_killed_process_goes_on(
    cell: Path, holder: subprocess.Popen[bytes]
) -> None:
    looks = []

    def job() -> str:
        with claimed(cell) as mine:
            if not mine:
                raise TakenError([cell])
            return "done"

    def look() -> None:
        looks.append(holder.poll())
        assert len(looks) < 30, "still waiting"
        if len(looks) == 3:
            holder.kill()
            holder.wait()

    assert finish([job], look) == ["done"]
    assert len(looks) > 3


def test_a_taken_cell_keeps_nobody_from_the_others(tmp_path: Path) -> None:
    path, done = tmp_path / "taken", []

    def waits() -> str:
        done.append("waits")
        if not path.exists():
            path.touch()
            raise TakenError([path])
        return "waited"

    def works() -> str:
        done.append("works")
        return "worked"

    with pytest.raises(TakenError) as caught:
        all_of([waits, works])
    assert caught.value.paths == (path,) and done == ["waits", "works"]
    path.unlink()
    done.clear()
    assert finish([waits, works]) == ["waited", "worked"]
    assert done == ["waits", "works", "waits"]


def test_whoever_waits_sees_that_another_has_failed(tmp_path: Path) -> None:
    def look() -> None:
        raise ValueError("process 1 has failed")

    with pytest.raises(ValueError, match="process 1 has failed"):
        finish([lambda: 1], look)
    with pytest.raises(ValueError, match="process 1 has failed"):
        Journal(tmp_path, look).cell({}, lambda: {})
